"""Models made with keyword arguments, and in Detectron2's Python configs (LazyConfig)."""

import copy

import pytest
import torch
from detectron2 import model_zoo
from detectron2.config import instantiate
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.proposal_generator import StandardRPNHead
from detectron2.structures import BitMasks, Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from anchor_heads.projects import dynamic_anchor, free_anchor, guided_anchoring

PROPOSAL_GENERATORS = {
    "GuidedAnchorRPN": (guided_anchoring.GuidedAnchorRPN, guided_anchoring.GuidedAnchorRPNHead),
    "FreeAnchorRPN": (free_anchor.FreeAnchorRPN, StandardRPNHead),
    "DynamicAnchorRPN": (dynamic_anchor.DynamicAnchorRPN, dynamic_anchor.DynamicAnchorRPNHead),
}
DETECTORS = {
    "GuidedAnchorRetinaNet": (
        guided_anchoring.GuidedAnchorRetinaNet,
        guided_anchoring.GuidedAnchorRetinaNetHead,
    ),
    "FreeAnchorRetinaNet": (free_anchor.FreeAnchorRetinaNet, None),
    "DynamicAnchorRetinaNet": (
        dynamic_anchor.DynamicAnchorRetinaNet,
        dynamic_anchor.DynamicAnchorRetinaNetHead,
    ),
}
SIZE = (64, 96)


def image_with_objects(mask=True):
    boxes = torch.tensor([[5.0, 5, 40, 50], [30, 10, 90, 40]])
    objects = Instances(SIZE, gt_boxes=Boxes(boxes), gt_classes=torch.tensor([1, 0]))
    if mask:
        objects.gt_masks = BitMasks(torch.ones(2, *SIZE, dtype=torch.bool))
    return {"image": torch.rand(3, *SIZE) * 255, "instances": objects}


def regnet():
    """A RegNetX of 200 MF instead of one of 4 GF."""
    model = model_zoo.get_config(
        "COCO-InstanceSegmentation/mask_rcnn_regnetx_4gf_dds_fpn_1x.py"
    ).model
    stages = {"depth": 13, "w_a": 36.44, "w_0": 24, "w_m": 2.49, "group_width": 8}
    model.backbone.bottom_up.update(stages)
    return model


def vitdet():
    """A plain ViT of two small blocks on images of 128 pixels."""
    model = model_zoo.get_config("common/models/mask_rcnn_vitdet.py").model
    net = {"img_size": 128, "embed_dim": 32, "depth": 2, "num_heads": 2}
    model.backbone.net.update(net | {"window_block_indexes": [0], "drop_path_rate": 0.0})
    model.backbone.square_pad = 128
    return model


@pytest.mark.parametrize("lazy_model", [regnet, vitdet])
@pytest.mark.parametrize("name", PROPOSAL_GENERATORS)
def test_a_proposal_generator_is_swapped_by_its_target_and_its_heads(lazy_model, name):
    lazy = copy.deepcopy(lazy_model())
    rpn = lazy.proposal_generator
    rpn._target_, rpn.head._target_ = PROPOSAL_GENERATORS[name]
    model = instantiate(lazy).train()
    with EventStorage():
        losses = model([image_with_objects()])
        sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert any(name.startswith("loss_rpn") for name in losses) and "loss_mask" in losses
    with torch.no_grad():
        (output,) = model.eval()([image_with_objects()])
    assert output["instances"].has("pred_masks")


@pytest.mark.parametrize("name", PROPOSAL_GENERATORS)
def test_a_head_needs_in_channels_alone(name):
    cls, head = PROPOSAL_GENERATORS[name]
    anchors = {} if head is not StandardRPNHead else {"num_anchors": 3}
    levels = ["p2", "p3", "p4", "p5", "p6"]
    rpn = cls(
        in_features=levels,
        head=head(in_channels=16, **anchors),
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[32], [64], [128], [256], [512]],
            aspect_ratios=[0.5, 1.0, 2.0],
            strides=[4, 8, 16, 32, 64],
        ),
    ).train()
    features = {name: torch.rand(1, 16, 64 >> i, 64 >> i) for i, name in enumerate(levels)}
    images = ImageList(torch.zeros(1, 3, 256, 256), [(256, 256)])
    with EventStorage():
        proposals, losses = rpn(images, features, [image_with_objects()["instances"]])
        sum(losses.values()).backward()
    assert len(proposals) == 1 and all(loss.isfinite() for loss in losses.values())


class TinyBackbone(Backbone):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)

    def forward(self, x):
        x = self.conv(x / 255)
        return {f"p{i}": nn.functional.avg_pool2d(x, 2**i) for i in range(3, 6)}

    def output_shape(self):
        return {f"p{i}": ShapeSpec(channels=16, stride=2**i) for i in range(3, 6)}


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_by_keyword_arguments(name):
    cls, head_class = DETECTORS[name]
    shapes = [ShapeSpec(channels=16)] * 3
    if head_class is None:
        head = RetinaNetHead(input_shape=shapes, num_classes=2, num_anchors=3, conv_dims=[16])
    elif head_class is dynamic_anchor.DynamicAnchorRetinaNetHead:
        head = head_class(input_shape=shapes, num_classes=2, num_convs=2, norm="")
    else:
        head = head_class(input_shape=shapes, num_classes=2, conv_dims=[16])
    model = cls(
        backbone=TinyBackbone(),
        head=head,
        head_in_features=["p3", "p4", "p5"],
        anchor_generator=DefaultAnchorGenerator(
            sizes=[[32], [64], [128]], aspect_ratios=[0.5, 1.0, 2.0], strides=[8, 16, 32]
        ),
        num_classes=2,
    ).train()
    with EventStorage():
        losses = model([image_with_objects(mask=False)])
        sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    with torch.no_grad():
        (output,) = model.eval()([image_with_objects(mask=False)])
    assert "instances" in output


class OwnRPNHead(nn.Module):
    """A head that is no StandardRPNHead, and has none of its layers."""

    def __init__(self, in_channels):
        super().__init__()
        self.layer = nn.Conv2d(in_channels, 3 * 5, 1)

    def forward(self, features):
        maps = [self.layer(x) for x in features]
        return [x[:, :3] for x in maps], [x[:, 3:] for x in maps]


def dynamic_head(in_channels):
    return dynamic_anchor.DynamicAnchorRPNHead(in_channels=in_channels, num_levels=1)


@pytest.mark.parametrize(
    "cls, head, loss_weight",
    [
        (free_anchor.FreeAnchorRPN, OwnRPNHead, 1.0),
        (free_anchor.FreeAnchorRPN, OwnRPNHead, 2),
        (free_anchor.FreeAnchorRPN, OwnRPNHead, {"loss_rpn_negative": 3.0}),
        (dynamic_anchor.DynamicAnchorRPN, dynamic_head, 2),
        (dynamic_anchor.DynamicAnchorRPN, dynamic_head, {"loss_rpn_loc": 3.0}),
    ],
)
def test_a_proposal_generator_with_any_loss_weight_and_head(cls, head, loss_weight):
    def losses(weight):
        torch.manual_seed(0)
        rpn = cls(
            in_features=["p3"],
            head=head(16),
            anchor_generator=DefaultAnchorGenerator(
                sizes=[[32]], aspect_ratios=[0.5, 1.0, 2.0], strides=[8]
            ),
            loss_weight=weight,
        ).train()
        images = ImageList(torch.zeros(1, 3, *SIZE), [SIZE])
        with EventStorage():
            objects = [image_with_objects()["instances"]]
            return rpn(images, {"p3": torch.rand(1, 16, 8, 12)}, objects)[1]

    plain, weighted = losses(1.0), losses(loss_weight)
    weights = loss_weight if isinstance(loss_weight, dict) else dict.fromkeys(plain, loss_weight)
    names = [name for name in plain if name.startswith("loss_rpn")]
    assert len(names) == 2
    for name in names:
        expected = plain[name].item() * weights.get(name, 1.0)
        assert weighted[name].item() == pytest.approx(expected)


@pytest.mark.parametrize("name", PROPOSAL_GENERATORS)
@pytest.mark.parametrize(
    "argument, error",
    [
        ({"loss_weight": {"loss_other": 1.0}}, "loss_weight has .*loss_other.*; the losses are"),
        ({"box_reg_loss_type": "other"}, "'other'"),
    ],
)
def test_losses_that_there_are_not_are_refused(name, argument, error):
    with pytest.raises(ValueError, match=error):
        PROPOSAL_GENERATORS[name][0](
            in_features=["p3"],
            head=OwnRPNHead(16),
            anchor_generator=DefaultAnchorGenerator(sizes=[[32]], aspect_ratios=[1.0], strides=[8]),
            **argument,
        )
