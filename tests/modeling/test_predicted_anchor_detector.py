"""Detectors with predicted anchors, small, from their configs for COCO."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from small_models import NUM_CLASSES, image_with, shrink
from tiny_run import finite_gradients

from anchor_heads import model_zoo

METHODS = {
    "guided_anchoring/ga_retinanet_R_50_FPN_1x": "GUIDED_ANCHOR",
    "dynamic_anchor/da_retinanet_R_50_FPN_1x": "DYNAMIC_ANCHOR",
}
LOSSES = {
    "GUIDED_ANCHOR": {"loss_anchor_location", "loss_anchor_shape"},
    "DYNAMIC_ANCHOR": {"loss_anchor_shape", "loss_anchor_quality"},
}

pytestmark = pytest.mark.parametrize("config", METHODS)


def tiny_cfg(config):
    return shrink(model_zoo.get_config(config), fpn_channels=64)


def one_object(box, gt_class):
    instances = Instances((128, 160), gt_boxes=Boxes(torch.tensor([box])))
    instances.gt_classes = torch.tensor([gt_class])
    return instances


@pytest.mark.parametrize("objects", [(2, 3), (0, 2), (2, 0), (0, 0)])
def test_trains_with_and_without_objects(config, objects):
    model = build_model(tiny_cfg(config)).train()
    with EventStorage() as storage:
        losses = model([image_with(n) for n in objects])
        sum(losses.values()).backward()
    assert set(losses) == {"loss_cls", "loss_box_reg"} | LOSSES[METHODS[config]]
    assert finite_gradients(model)
    latest = storage.latest()
    if objects == (0, 0):
        assert losses["loss_box_reg"] == losses["loss_anchor_shape"] == 0 < losses["loss_cls"]
        assert "predicted_anchor/best_iou" not in latest
        assert latest["num_pos_anchors"][0] == 0 < latest["num_neg_anchors"][0]
    else:
        assert losses["loss_anchor_shape"] > 0
        assert 0 < latest["predicted_anchor/best_iou"][0] < 1
        assert latest["num_pos_anchors"][0] > 0


def test_step_under_bfloat16_autocast(config):
    model = build_model(tiny_cfg(config)).train()
    batch = [image_with(3), image_with(0)]

    def losses():
        torch.manual_seed(0)
        with EventStorage():
            return model(batch)

    exact = losses()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = losses()
    sum(rounded.values()).backward()
    assert {x.dtype for x in rounded.values()} == {torch.float32}
    for name, loss in rounded.items():
        assert loss.item() == pytest.approx(exact[name].item(), rel=0.05), name
    assert finite_gradients(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_prediction_under_autocast(config, dtype):
    model = build_model(tiny_cfg(config)).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        (output,) = model([image_with(1)])
    assert output["instances"].pred_boxes.tensor.dtype == torch.float32


def test_levels_strides_and_sizes_come_from_the_config(config):
    cfg = tiny_cfg(config)
    cfg.MODEL.RETINANET.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[24], [48], [96]]
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    model = build_model(cfg).train()
    with EventStorage():
        losses = model([image_with(2)])
    assert all(loss.isfinite() for loss in losses.values())
    (generator,) = (x for key, x in model.named_modules() if key.endswith("square_generator"))
    maps = [torch.zeros(1, 1, 64 // stride, 64 // stride) for stride in (8, 16, 32)]
    fine, middle, coarse = (level.tensor for level in generator(maps))
    assert fine[0].tolist() == [4 - 12, 4 - 12, 4 + 12, 4 + 12]
    assert middle[1].tolist() == [24 - 24, 8 - 24, 24 + 24, 8 + 24]
    assert coarse[2].tolist() == [16 - 48, 48 - 48, 16 + 48, 48 + 48]


def test_an_anchor_of_no_size_learns_nothing(config):
    model = build_model(tiny_cfg(config))
    anchors = torch.tensor([[[5.0, 5.0, 5.0, 9.0], [0.0, 0.0, 10.0, 10.0]]])
    objects = [one_object([100.0, 100.0, 120.0, 120.0], 2)]
    with EventStorage():
        labels, _ = model.label_predicted_anchors(anchors, objects, torch.ones(1, 2).bool())
    assert labels.tolist() == [[-1, 2]]  # the object takes all that it does not touch


@pytest.mark.parametrize("min_iou,expected", [(0.0, [3, 3]), (0.01, [1, NUM_CLASSES])])
def test_an_object_that_no_anchor_touches_takes_all_or_none(config, min_iou, expected):
    """As published it takes that of the object before it too."""
    cfg = tiny_cfg(config)
    cfg.MODEL[METHODS[config]].RETINANET.MIN_IOU = min_iou
    model = build_model(cfg)
    anchors = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0]]])
    touched, untouched = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]
    objects = [Instances.cat([one_object(touched, 1), one_object(untouched, 3)])]
    with EventStorage():
        labels, _ = model.label_predicted_anchors(anchors, objects, torch.ones(1, 2).bool())
    assert labels.tolist() == [expected]


def test_locations_in_the_padding_of_a_batch_learn_nothing(config):
    """Images of 60x64 and 128x180, padded to 64x64 and 128x192, in a batch of 256x256."""
    model = build_model(tiny_cfg(config)).train()
    model.backbone._size_divisibility = 256
    with EventStorage() as storage:
        model([image_with(2, 60, 64), image_with(1, 128, 180)])
    latest = storage.latest()
    used = 2 * (latest["num_pos_anchors"][0] + latest["num_neg_anchors"][0])
    sizes = [(64, 64), (128, 192)]
    assert used == sum(-(-h // s) * -(-w // s) for h, w in sizes for s in (8, 16, 32, 64, 128))


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("RETINANET.NUM_CONVS", 0, "NUM_CONVS is 0; it must be above 0"),
        ("RETINANET.IOU_LABELS", [0, -1, 1], r"one threshold with the labels \[0, 1\]"),
        ("ANCHOR_GENERATOR.SIZES", [[32, 64]], "Write a list of sizes per level"),
    ],
)
def test_wrong_settings_are_explained(config, key, value, message):
    cfg = tiny_cfg(config)
    cfg.merge_from_list([f"MODEL.{key}", value])
    with pytest.raises(ValueError, match=message):
        build_model(cfg)


def test_anchors_of_no_size_make_a_step(config):
    model = build_model(tiny_cfg(config)).train()
    shape = model.head.conv_shape if METHODS[config] == "GUIDED_ANCHOR" else model.head.conv_anchor
    torch.nn.init.constant_(shape.bias, -20.0)  # anchors of a pixel's millionth
    with EventStorage():
        losses = model([image_with(1)])
        sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert finite_gradients(model)
