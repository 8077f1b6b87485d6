import copy

import pytest
import torch
import torch.nn.functional as F
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_backbone
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from anchor_heads.modeling.backbone import add_backbone_config

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


# --- batch norms with fixed statistics ---

P2_TO_P6, P3_TO_P7 = "build_resnet_fpn_p6_backbone", "build_resnet_fpn_p6p7_backbone"
RES5_NORM = "bottom_up.res5.1.conv2.norm."


def norm_cfg(norm="BN", norm_eval=True, name=P2_TO_P6, freeze_at=2):
    cfg = tiny_cfg()
    cfg.MODEL.BACKBONE.NAME = name
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    cfg.MODEL.RESNETS.merge_from_list(["NORM", norm, "NORM_EVAL", norm_eval])
    if name != P3_TO_P7:
        stages = ["res2", "res3", "res4", "res5"]
        cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = stages
    return cfg


def randomize_norms(backbone):
    """Weights and statistics as of a trained model: far from those of a fresh one."""
    norms = (nn.BatchNorm2d, FrozenBatchNorm2d)
    for module in backbone.modules():
        if isinstance(module, norms):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                value.data.uniform_(0.5, 1.5)
    return backbone


def train_step(model):
    model.train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    features = model(torch.rand(2, 3, 64, 64))
    sum(feature.square().mean() for feature in features.values()).backward()
    optimizer.step()


def test_p2_to_p6_are_those_of_detectron2s_builder():
    ours = build_backbone(norm_cfg(norm_eval=False))
    detectron2s = build_backbone(norm_cfg(norm_eval=False, name="build_resnet_fpn_backbone"))
    detectron2s.load_state_dict(ours.state_dict())  # strict: the same names and shapes
    image = torch.rand(2, 3, 64, 128)
    expected = detectron2s(image)
    features = ours(image)
    assert list(features) == ["p2", "p3", "p4", "p5", "p6"]
    for level, feature in features.items():
        assert torch.equal(feature, expected[level])
        assert ours.output_shape()[level] == detectron2s.output_shape()[level]


@pytest.mark.parametrize("name", [P2_TO_P6, P3_TO_P7])
def test_a_step_trains_scale_and_shift_but_no_statistics(name):
    backbone = randomize_norms(build_backbone(norm_cfg(name=name)))
    before = copy.deepcopy(backbone.state_dict())
    train_step(backbone)
    trained = {
        name for name, value in backbone.state_dict().items() if (value != before[name]).any()
    }
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert not {name for name in trained if name.endswith(statistics)}
    assert not {name for name in trained if ".stem." in name or ".res2." in name}
    assert {RES5_NORM + "weight", RES5_NORM + "bias"} <= trained
    gradient = backbone.get_parameter(RES5_NORM + "weight").grad
    change = backbone.get_parameter(RES5_NORM + "weight").detach() - before[RES5_NORM + "weight"]
    torch.testing.assert_close(change, -0.1 * gradient, rtol=1e-3, atol=1e-6)


def test_without_norm_eval_the_statistics_move():
    backbone = build_backbone(norm_cfg(norm_eval=False))
    train_step(backbone)
    assert backbone.state_dict()[RES5_NORM + "num_batches_tracked"] == 1


@pytest.mark.parametrize("training", [True, False])
def test_fixed_statistics_give_the_output_of_frozen_norms(training):
    fixed = randomize_norms(build_backbone(norm_cfg())).train(training)
    frozen = build_backbone(norm_cfg("FrozenBN", norm_eval=False))
    frozen.load_state_dict(fixed.state_dict(), strict=False)
    image = torch.rand(2, 3, 64, 64)
    expected = frozen(image)
    for level, feature in fixed(image).items():
        torch.testing.assert_close(feature, expected[level], rtol=1e-4, atol=1e-4)


def test_names_and_frozen_stages_are_those_of_detectron2(tmp_path):
    fixed = randomize_norms(build_backbone(norm_cfg()))
    plain = build_backbone(norm_cfg(norm_eval=False))
    assert list(fixed.state_dict()) == list(plain.state_dict())
    trained = [
        [n for n, p in model.named_parameters() if p.requires_grad] for model in (fixed, plain)
    ]
    assert trained[0] == trained[1]
    assert isinstance(fixed.bottom_up.res2[0].conv1.norm, FrozenBatchNorm2d)

    DetectionCheckpointer(fixed, str(tmp_path)).save("model")
    loaded = build_backbone(norm_cfg())
    DetectionCheckpointer(loaded).load(str(tmp_path / "model.pth"))
    for name, value in fixed.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


@pytest.mark.parametrize("toggle", ["train_after_eval", "module_alone", "distributed"])
def test_statistics_stay_fixed_however_training_is_switched_on(toggle, monkeypatch):
    backbone = randomize_norms(build_backbone(norm_cfg()))
    norm = backbone.get_submodule(RES5_NORM.rstrip("."))
    before = norm.running_mean.clone()
    if toggle == "train_after_eval":
        train_step(backbone.eval())
    elif toggle == "module_alone":
        norm.train()
        backbone.bottom_up.res5.train()
        train_step(backbone)
    else:
        # One process is enough: what counts is that the wrapper switches to training.
        torch.distributed.init_process_group(
            "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
        )
        try:
            train_step(DistributedDataParallel(backbone))
        finally:
            torch.distributed.destroy_process_group()
    assert torch.equal(norm.running_mean, before)
    assert not norm.training


@pytest.mark.parametrize("norm", ["FrozenBN", "SyncBN", "GN"])
def test_norm_eval_is_refused_for_other_norms(norm):
    with pytest.raises(ValueError, match=f'MODEL.RESNETS.NORM_EVAL .* "BN", not "{norm}"'):
        build_backbone(norm_cfg(norm))
