import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from dynamic_published import IMAGE_SIZES, TOLERANCE, Published, published_cfg

from anchor_heads.layers import flatten_hw
from anchor_heads.projects.dynamic_anchor.head import DynamicAnchorRPNHead
from anchor_heads.projects.dynamic_anchor.rpn import DynamicAnchorRPN

LOSSES = {"loss_rpn_cls", "loss_rpn_loc", "loss_anchor_shape"}


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
        logits = flatten_hw(head.objectness_logits(adapted))
    assert len(predictions) == len(head.scales) == 5
    torch.testing.assert_close(predictions[1].shape, flatten_hw(shape))
    torch.testing.assert_close(predictions[1].logits, logits)
    assert predictions[1].quality is None
    names = set(dict(head.named_parameters()))
    assert {"conv_anchor.weight", "feature_attention.conv_adaption.weight"} < names
    assert head.objectness_logits.weight.shape == (1, 16, 1, 1)
    assert isinstance(head, DynamicAnchorRPNHead)


def test_a_head_for_another_number_of_levels_is_refused():
    head = DynamicAnchorRPNHead(in_channels=16, num_levels=4)
    with pytest.raises(ValueError, match="num_levels=4, but there are 5 .* Set num_levels to 5"):
        head(maps())


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
    shapes = {f"p{i + 3}": ShapeSpec(channels=4, stride=8 * 2**i) for i in range(5)}
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
