import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.modeling import build_backbone

from anchor_heads.backbone import add_backbone_config

LEVELS = ["p3", "p4", "p5", "p6", "p7"]
STRIDES = [8, 16, 32, 64, 128]


def tiny_cfg(p6_input="res5", p7_relu=True):
    cfg = get_cfg()
    add_backbone_config(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_p6p7_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.FPN.P6_INPUT = p6_input
    cfg.MODEL.FPN.P7_RELU = p7_relu
    return cfg


def stride_2_conv(x, conv):
    return F.conv2d(x, conv.weight, conv.bias, stride=2, padding=1)


def test_levels_have_the_announced_shapes():
    backbone = build_backbone(tiny_cfg("p5"))
    features = backbone(torch.rand(2, 3, 128, 256))
    assert list(features) == LEVELS
    for level, stride in zip(LEVELS, STRIDES, strict=True):
        assert features[level].shape == (2, 16, 128 // stride, 256 // stride)
        assert backbone.output_shape()[level].stride == stride
        assert backbone.output_shape()[level].channels == 16
    assert backbone.size_divisibility == 32


@pytest.mark.parametrize("p6_input", ["res5", "p5"])
@pytest.mark.parametrize("p7_relu", [True, False])
def test_p6_and_p7_equal_a_composition_by_hand(p6_input, p7_relu):
    backbone = build_backbone(tiny_cfg(p6_input, p7_relu))
    image = torch.rand(1, 3, 128, 256)
    features = backbone(image)
    source = features["p5"] if p6_input == "p5" else backbone.bottom_up(image)["res5"]
    p6 = stride_2_conv(source, backbone.top_block.p6)
    assert (p6 < 0).any()  # otherwise the ReLU could not be seen
    p7 = stride_2_conv(p6.relu() if p7_relu else p6, backbone.top_block.p7)
    torch.testing.assert_close(features["p6"], p6)
    torch.testing.assert_close(features["p7"], p7)


def test_only_p6_from_p5_trains_the_fpn_output():
    for p6_input, reached in [("res5", False), ("p5", True)]:
        backbone = build_backbone(tiny_cfg(p6_input))
        backbone(torch.rand(1, 3, 64, 64))["p6"].sum().backward()
        assert (backbone.fpn_output5.weight.grad is not None) == reached


def test_the_defaults_are_the_backbone_of_detectron2s_retinanet():
    ours = build_backbone(tiny_cfg())
    cfg = tiny_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_retinanet_resnet_fpn_backbone"
    detectron2s = build_backbone(cfg)
    detectron2s.load_state_dict(ours.state_dict())  # strict: the same names and shapes
    image = torch.rand(1, 3, 64, 64)
    expected = detectron2s(image)
    for level, feature in ours(image).items():
        assert torch.equal(feature, expected[level])


def test_p6_from_p5_has_the_channels_of_the_fpn():
    assert build_backbone(tiny_cfg("res5")).top_block.p6.weight.shape == (16, 512, 3, 3)
    assert build_backbone(tiny_cfg("p5")).top_block.p6.weight.shape == (16, 16, 3, 3)


def test_an_unknown_p6_input_is_refused_with_the_key_and_the_choices():
    with pytest.raises(ValueError, match='MODEL.FPN.P6_INPUT is "p4"; .* "res5" or "p5"'):
        build_backbone(tiny_cfg("p4"))


@pytest.mark.parametrize("in_features", [[], ["res3", "res4"]])
def test_an_fpn_that_does_not_end_with_res5_is_refused(in_features):
    cfg = tiny_cfg("p5")
    cfg.MODEL.FPN.IN_FEATURES = in_features
    with pytest.raises(ValueError, match="MODEL.FPN.IN_FEATURES .* end with res5"):
        build_backbone(cfg)
