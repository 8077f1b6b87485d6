"""Backbones of timm, with random weights: nothing is downloaded."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_backbone, build_model
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from anchor_heads import get_cfg, model_zoo
from anchor_heads.engine.optimizer import build_optimizer

timm = pytest.importorskip("timm")

LITE0, CONVNEXT, SWIN = "tf_efficientnet_lite0", "convnext_tiny", "swin_tiny_patch4_window7_224"
P2_TO_P6, P3_TO_P7 = "build_timm_fpn_p6_backbone", "build_timm_fpn_p6p7_backbone"
IMAGENET = {
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "INPUT.FORMAT": "RGB",
}


def timm_cfg(name=LITE0, builder=P2_TO_P6, stages=("res2", "res3", "res4", "res5"), **keys):
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = builder
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.TIMM.NAME = name
    cfg.MODEL.TIMM.PRETRAINED = False
    cfg.MODEL.FPN.IN_FEATURES = list(stages)
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    for key, value in keys.items():
        cfg.MODEL.TIMM[key] = value
    return cfg


@pytest.mark.parametrize("name", [LITE0, CONVNEXT, SWIN])
def test_levels_have_the_announced_shapes(name):
    backbone = build_backbone(timm_cfg(name)).eval()
    # 3x5 positions at stride 32: not whole windows of 7.
    features = backbone(torch.rand(1, 3, 96, 160))
    assert list(features) == ["p2", "p3", "p4", "p5", "p6"]
    for stride, (level, x) in zip([4, 8, 16, 32, 64], features.items(), strict=True):
        assert x.shape == (1, 16, -(-96 // stride), -(-160 // stride))
        assert backbone.output_shape()[level].stride == stride
    assert backbone.size_divisibility == 32


@pytest.mark.parametrize("p6_input, channels", [("res5", 320), ("p5", 16)])
def test_p6_and_p7_come_from_the_last_stage_or_the_fpn(p6_input, channels):
    cfg = timm_cfg(builder=P3_TO_P7, stages=("res3", "res4", "res5"))
    cfg.MODEL.FPN.P6_INPUT = p6_input
    backbone = build_backbone(cfg)
    assert backbone.top_block.p6.in_channels == channels
    assert list(backbone(torch.rand(1, 3, 64, 64))) == ["p3", "p4", "p5", "p6", "p7"]


@pytest.mark.parametrize("name", [LITE0, SWIN])
def test_stages_are_the_features_of_timms_model(name):
    bottom_up = build_backbone(timm_cfg(name)).bottom_up.eval()
    image = torch.rand(1, 3, 64, 96)
    stages = bottom_up(image)
    expected = bottom_up.net(image)
    if name == SWIN:  # channels last
        expected = [x.permute(0, 3, 1, 2) for x in expected]
    for stage, feature in zip(stages.values(), expected[-4:], strict=True):
        torch.testing.assert_close(stage, feature, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "name, freeze_at, first_trained",
    [
        (LITE0, 0, "conv_stem.weight"),
        (LITE0, 1, "blocks.1.0.conv_pw.weight"),
        (LITE0, 2, "blocks.2.0.conv_pw.weight"),
        (CONVNEXT, 1, "stages_0.blocks.0.gamma"),
        (CONVNEXT, 2, "stages_1.downsample.0.weight"),
        (SWIN, 1, "layers_0.blocks.0.norm1.weight"),
        (SWIN, 2, "layers_1.downsample.norm.weight"),
    ],
)
def test_freeze_at_counts_as_for_resnets(name, freeze_at, first_trained):
    cfg = timm_cfg(name)
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    parameters = list(build_backbone(cfg).bottom_up.net.named_parameters())
    trained = [name for name, parameter in parameters if parameter.requires_grad]
    assert trained[0] == first_trained
    assert trained == [name for name, _ in parameters][-len(trained) :]


@pytest.mark.parametrize("freeze_at", [1, 2, 3, 5])
@pytest.mark.parametrize("name", [LITE0, "resnet10t"])
def test_what_is_frozen_does_not_depend_on_the_features_in_use(name, freeze_at):
    frozen = []
    for indices in ([], [2, 3, 4], [-3, -2, -1], [3, 4]):
        cfg = timm_cfg(name, OUT_INDICES=indices, builder=P3_TO_P7, stages=["res4", "res5"])
        cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
        parameters = build_backbone(cfg).bottom_up.net.named_parameters()
        frozen.append([name for name, parameter in parameters if not parameter.requires_grad])
    assert frozen[0] and frozen[1:] == frozen[:1] * 3


@pytest.mark.parametrize("norm_eval", [True, False])
def test_norm_eval_keeps_the_statistics_in_training(norm_eval):
    cfg = timm_cfg(NORM_EVAL=norm_eval)
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    backbone = build_backbone(cfg).train()
    norms = [x for x in backbone.bottom_up.modules() if isinstance(x, _BatchNorm)]
    before = [x.running_mean.clone() for x in norms]
    backbone(torch.rand(2, 3, 64, 64))
    for norm, mean in zip(norms, before, strict=True):
        frozen = not norm.weight.requires_grad
        assert torch.equal(norm.running_mean, mean) == (norm_eval or frozen)
    assert any(not norm.weight.requires_grad for norm in norms)


def test_drop_path_rate_reaches_the_model():
    dropped = [
        module.drop_prob
        for module in build_backbone(timm_cfg(CONVNEXT, DROP_PATH_RATE=0.2)).modules()
        if type(module).__name__ == "DropPath"
    ]
    assert max(dropped) == pytest.approx(0.2)


def test_a_checkpoint_in_timms_names_is_read(tmp_path):
    source = timm.create_model(LITE0)  # with its classifier
    nn.init.normal_(source.conv_stem.weight)
    torch.save(source.state_dict(), tmp_path / "lite0.pth")
    cfg = timm_cfg(CHECKPOINT=str(tmp_path / "lite0.pth"))
    cfg.merge_from_list(["MODEL.PIXEL_MEAN", [127.0] * 3, "MODEL.PIXEL_STD", [128.0] * 3])
    cfg.INPUT.FORMAT = "RGB"
    backbone = build_backbone(cfg)
    assert torch.equal(backbone.bottom_up.net.conv_stem.weight, source.conv_stem.weight)


def test_with_model_weights_the_backbone_comes_from_there(tmp_path):
    cfg = model_zoo.get_config("timm/ga_retinanet_tf_efficientnet_lite0_FPN_1x")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "MODEL.FPN.OUT_CHANNELS", 16])
    cfg.MODEL.TIMM.PRETRAINED = False
    trained = build_model(cfg)
    torch.save({"model": trained.state_dict()}, tmp_path / "model.pth")

    # PRETRAINED, but neither downloaded nor read: the file that MODEL.WEIGHTS names has it all.
    cfg.merge_from_list(
        ["MODEL.TIMM.PRETRAINED", True, "MODEL.WEIGHTS", str(tmp_path / "model.pth")]
    )
    model = build_model(cfg)
    DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    for name, value in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_frozen_stages_are_not_optimised():
    cfg = timm_cfg()
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    backbone = build_backbone(cfg)
    optimised = sum(len(group["params"]) for group in build_optimizer(cfg, backbone).param_groups)
    assert optimised == sum(p.requires_grad for p in backbone.parameters())


# --- what is refused, in one line ---


@pytest.mark.parametrize(
    "keys",
    [
        {"INPUT.FORMAT": "BGR"},
        {"MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675]},
        {"MODEL.PIXEL_STD": [1.0, 1.0, 1.0]},
    ],
)
def test_pixels_other_than_timms_are_refused_with_what_to_write(keys):
    cfg = timm_cfg(CONVNEXT, PRETRAINED=True)
    for key, value in (IMAGENET | keys).items():
        cfg.merge_from_list([key, value])
    expected = (
        r'INPUT.FORMAT RGB MODEL.PIXEL_MEAN "\[123.675, 116.28, 103.53\]" '
        r'MODEL.PIXEL_STD "\[58.395, 57.12, 57.375\]"'
    )
    with pytest.raises(ValueError, match=expected):
        build_backbone(cfg)


@pytest.mark.parametrize("name", [LITE0, CONVNEXT, SWIN])
def test_shipped_configs_have_the_pixels_of_timms_record(name, monkeypatch):
    """They come as far as the weights."""
    cfg = model_zoo.get_config(f"timm/ga_rpn_{name}_FPN_1x")
    cfg.MODEL.TIMM.CHECKPOINT = "no/such/file.pth"
    with pytest.raises(FileNotFoundError, match="no/such/file.pth, which MODEL.TIMM.CHECKPOINT"):
        build_backbone(cfg)


def test_weights_that_cannot_be_downloaded_are_named_with_what_to_do(monkeypatch):
    def offline(name, pretrained=False, **kwargs):
        assert pretrained
        raise OSError("no network\nand a long story")

    monkeypatch.setattr(timm, "create_model", offline)
    cfg = model_zoo.get_config("timm/ga_rpn_convnext_tiny_FPN_1x")
    expected = (
        r"^The weights of timm's convnext_tiny cannot be downloaded \(no network\)\. Put "
        r"model.safetensors of https://huggingface.co/timm/convnext_tiny\S+ into a file .*"
        r"MODEL.TIMM.CHECKPOINT.*MODEL.WEIGHTS.*MODEL.TIMM.PRETRAINED False\.$"
    )
    with pytest.raises(FileNotFoundError, match=expected):
        build_backbone(cfg)


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save(timm.create_model(LITE0).state_dict(), tmp_path / "lite0.pth")
    cfg = model_zoo.get_config("timm/ga_rpn_convnext_tiny_FPN_1x")
    cfg.MODEL.TIMM.CHECKPOINT = str(tmp_path / "lite0.pth")
    with pytest.raises(ValueError, match="convnext_tiny cannot be built with .*lite0"):
        build_backbone(cfg)


def test_an_unknown_name_is_answered_with_similar_ones():
    with pytest.raises(ValueError, match="convnext_tinny, which timm does not .*convnext_"):
        build_backbone(timm_cfg("convnext_tinny"))


def test_features_without_the_strides_of_an_fpn_are_refused():
    with pytest.raises(ValueError, match=r"have the strides \[2\]; .* MODEL.TIMM.OUT_INDICES"):
        build_backbone(timm_cfg(OUT_INDICES=[0]))
    with pytest.raises(ValueError, match="vit_tiny_patch16_224 cannot be built"):
        build_backbone(timm_cfg("vit_tiny_patch16_224"))
