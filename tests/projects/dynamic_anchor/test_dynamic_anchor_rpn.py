import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from dynamic_published import IMAGE_SIZES, TOLERANCE, Published, published_cfg
from two_stage_zoo import ZOO, image_with, zoo_cfg

from anchor_heads.layers import by_location
from anchor_heads.projects.dynamic_anchor.head import DynamicAnchorRPNHead
from anchor_heads.projects.dynamic_anchor.rpn import DynamicAnchorRPN

LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_anchor_shape"}


@pytest.mark.parametrize("name", ZOO)
def test_trains_and_predicts_in_every_model_with_a_proposal_generator(name):
    model = build_model(zoo_cfg(name, "DynamicAnchorRPN")).train()
    with EventStorage():
        losses = model([image_with(2), image_with(0 if name != "Keypoint R-CNN" else 1)])
        sum(losses.values()).backward()
    assert set(losses) >= LOSSES
    assert losses["loss_anchor_shape"] > 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)

    with torch.no_grad():
        output = model.eval()([image_with(0)])[0]
    if name == "RPN":
        assert 0 < len(output["proposals"]) <= 1000
    else:
        assert output["instances"].has("pred_masks") == (name in ("Mask R-CNN", "Cascade R-CNN"))
        assert output["instances"].has("pred_keypoints") == (name == "Keypoint R-CNN")


def test_a_batch_without_objects_makes_a_step():
    model = build_model(zoo_cfg("RPN", "DynamicAnchorRPN")).train()
    with EventStorage() as storage:
        losses = model([image_with(0), image_with(0)])
        sum(losses.values()).backward()
    assert losses["loss_rpn_loc"] == losses["loss_anchor_shape"] == 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert "predicted_anchor/best_iou" not in storage.latest()


def test_step_under_bfloat16_autocast():
    model = build_model(zoo_cfg("RPN", "DynamicAnchorRPN")).train()
    batch = [image_with(3), image_with(0)]

    def loss():
        torch.manual_seed(0)
        with EventStorage():
            return sum(model(batch).values())

    exact = loss()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = loss()
    rounded.backward()
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_images_of_different_sizes_have_the_proposals_they_have_alone():
    """And each within its own image."""
    model = build_model(zoo_cfg("RPN", "DynamicAnchorRPN")).eval()
    sizes = [(96, 128), (128, 64)]
    batch = torch.randn(2, 3, 128, 128)
    features = {name: x.detach() for name, x in model.backbone(batch).items()}
    with torch.no_grad():
        together, _ = model.proposal_generator(ImageList(batch, sizes), features)
        for i, size in enumerate(sizes):
            one = {name: x[i : i + 1] for name, x in features.items()}
            (alone,), _ = model.proposal_generator(ImageList(batch[i : i + 1], [size]), one)
            boxes, expected = together[i].proposal_boxes.tensor, alone.proposal_boxes.tensor
            torch.testing.assert_close(boxes, expected, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(together[i].objectness_logits, alone.objectness_logits)
            corners = boxes.amax(dim=0)
            assert corners[2] <= size[1] and corners[3] <= size[0]


STRIDES = (4, 8, 16, 32, 64)


def generator_of(channels=16):
    cfg = published_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[64], [128], [256], [512], [1024]]
    cfg.MODEL.RPN.IN_FEATURES = [f"p{i}" for i in range(2, 7)]
    shapes = {
        f"p{i + 2}": ShapeSpec(channels=channels, stride=stride) for i, stride in enumerate(STRIDES)
    }
    return DynamicAnchorRPN(cfg, shapes)


def maps(channels=16):
    height, width = IMAGE_SIZES[0]
    return [torch.randn(2, channels, -(-height // s), -(-width // s)) for s in STRIDES]


def test_the_head_is_rpns_on_a_feature_that_the_shape_steers():
    head = generator_of().rpn_head
    torch.nn.init.normal_(head.conv_anchor.weight)
    features = maps()
    with torch.no_grad():
        predictions = head(features)
        t = head.conv(features[1])
        shape = head.conv_anchor(t)
        adapted = head.feature_attention(t, shape)
        logits = by_location(head.objectness_logits(adapted))
    assert len(predictions) == len(head.scales) == 5
    torch.testing.assert_close(predictions[1].shape, by_location(shape))
    torch.testing.assert_close(predictions[1].logits, logits)
    assert predictions[1].quality is None
    names = set(dict(head.named_parameters()))
    assert {"conv_anchor.weight", "feature_attention.conv_adaption.weight"} < names
    assert head.objectness_logits.weight.shape == (1, 16, 1, 1)
    assert isinstance(head, DynamicAnchorRPNHead)


def test_shapes_learn_by_their_own_loss_alone():
    """Neither objectness nor the deltas' targets train them, through the attention either."""
    generator = generator_of().train()
    gt = Published("head_loss").instances()
    features = dict(zip(generator.in_features, maps(), strict=True))
    with EventStorage():
        _, losses = generator(ImageList(torch.zeros(2, 3, 128, 160), IMAGE_SIZES), features, gt)
    weight = generator.rpn_head.conv_anchor.weight
    for name in LOSSES:
        (gradient,) = torch.autograd.grad(
            losses[name], weight, retain_graph=True, allow_unused=True
        )
        assert (gradient is not None) == (name == "loss_anchor_shape"), name


def test_the_loss_of_shapes_is_the_detectors(monkeypatch):
    """The published arrays of the detector, on its strides and sizes."""
    published = Published("head_loss")
    predictions, leaves = published.predictions("crafted/in")
    cfg = published_cfg()
    cfg.MODEL.RPN.IN_FEATURES = [f"p{i}" for i in range(3, 8)]
    shapes = {f"p{i + 3}": ShapeSpec(channels=1, stride=8 * 2**i) for i in range(5)}
    generator = DynamicAnchorRPN(cfg, shapes).train()
    monkeypatch.setattr(
        generator.rpn_head,
        "forward",
        lambda features: [x._replace(logits=x.logits[..., :1], quality=None) for x in predictions],
    )
    features = {
        f"p{i + 3}": torch.zeros(2, 1, *x.shape[2:]) for i, x in enumerate(leaves["anchor_preds"])
    }
    image = ImageList(torch.zeros(2, 3, 128, 160), IMAGE_SIZES)
    with EventStorage():
        _, losses = generator(image, features, published.instances())
    expected = published.tensor("crafted/loss/loss_anchor")
    torch.testing.assert_close(losses["loss_anchor_shape"].detach(), expected, **TOLERANCE)
