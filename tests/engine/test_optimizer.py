import pytest
import torch
from torch import nn

from anchor_heads import get_cfg
from anchor_heads.engine.optimizer import build_optimizer
from anchor_heads.layers import ModulatedDeformConvPack


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def settings_by_parameter(optimizer):
    """Learning rate and weight decay of each parameter; none is in two groups."""
    pairs = [
        (p, (group["lr"], group["weight_decay"]))
        for group in optimizer.param_groups
        for p in group["params"]
    ]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


@pytest.mark.parametrize("name,kind", [("SGD", torch.optim.SGD), ("AdamW", torch.optim.AdamW)])
def test_optimizer_by_name_with_detectron2_parameter_groups(model, name, kind):
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER = name
    cfg.SOLVER.BASE_LR = 0.01
    cfg.SOLVER.WEIGHT_DECAY = 0.05
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    cfg.SOLVER.BIAS_LR_FACTOR = 2.0
    optimizer = build_optimizer(cfg, model)
    assert isinstance(optimizer, kind)
    settings = settings_by_parameter(optimizer)
    conv, norm = model
    assert settings[conv.weight] == (0.01, 0.05)
    assert settings[conv.bias] == (0.02, 0.05)
    assert settings[norm.weight] == (0.01, 0.0)


def test_biases_of_norms_and_offsets_can_keep_the_rate_and_decay_of_weights():
    cfg = get_cfg()
    cfg.SOLVER.BASE_LR, cfg.SOLVER.WEIGHT_DECAY = 0.01, 0.05
    cfg.SOLVER.WEIGHT_DECAY_NORM, cfg.SOLVER.WEIGHT_DECAY_BIAS = 0.03, 0.0
    cfg.SOLVER.BIAS_LR_FACTOR = 2.0
    model = nn.ModuleList([ModulatedDeformConvPack(4, 4), nn.GroupNorm(2, 4), nn.BatchNorm2d(4)])
    model.append(nn.GroupNorm(2, 4, affine=False))
    conv, group_norm, batch_norm, _ = model
    spared = [conv.conv_offset.bias, group_norm.bias, batch_norm.bias]
    expected = {True: [(0.02, 0.0)] * 3, False: [(0.01, 0.05), (0.01, 0.03), (0.01, 0.03)]}
    for rule_for_all in (True, False):
        cfg.SOLVER.BIAS_RULE_FOR_ALL = rule_for_all
        settings = settings_by_parameter(build_optimizer(cfg, model))
        assert set(settings) == set(model.parameters())
        assert settings[conv.bias] == (0.02, 0.0)
        assert settings[conv.conv_offset.weight] == (0.01, 0.05)
        assert settings[group_norm.weight] == (0.01, 0.03)
        assert [settings[bias] for bias in spared] == expected[rule_for_all]


def test_clipping_bounds_the_step(model):
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER = "AdamW"
    cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.ENABLED", True])
    cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 0.5])
    optimizer = build_optimizer(cfg, model)
    for p in model.parameters():
        p.grad = torch.full_like(p, 7.0)
    optimizer.step()
    assert all(p.grad.max() == 0.5 for p in model.parameters())


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
@pytest.mark.parametrize("clip_value, factor", [(35.0, 1.0), (2.5, 0.5)])
def test_clipping_over_the_full_model_keeps_the_direction(model, name, clip_value, factor):
    cfg = get_cfg()
    clip = ["ENABLED", True, "CLIP_TYPE", "full_model", "CLIP_VALUE", clip_value]
    cfg.SOLVER.OPTIMIZER = name
    cfg.SOLVER.CLIP_GRADIENTS.merge_from_list(clip)
    optimizer = build_optimizer(cfg, model)
    conv, norm = model
    # As in mixed precision, where the loss has a scale that the clipping must not see.
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    loss = 3 * conv.weight[0, 0].sum() + 4 * norm.bias[1]  # its gradient has an L2 norm of 5
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    assert conv.weight.grad.sum().item() == pytest.approx(3 * factor, rel=1e-5)
    assert norm.bias.grad.sum().item() == pytest.approx(4 * factor, rel=1e-5)


def test_unknown_optimizer_is_refused(model):
    cfg = get_cfg()
    cfg.SOLVER.OPTIMIZER = "Adam"
    with pytest.raises(ValueError, match="'Adam'; write 'SGD' or 'AdamW'"):
        build_optimizer(cfg, model)
