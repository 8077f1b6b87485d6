import pytest
import torch
from torch import nn

from anchor_heads import get_cfg
from anchor_heads.engine.optimizer import build_optimizer


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


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
    settings = {
        id(p): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for p in group["params"]
    }
    conv, norm = model
    assert settings[id(conv.weight)] == (0.01, 0.05)
    assert settings[id(conv.bias)] == (0.02, 0.05)
    assert settings[id(norm.weight)] == (0.01, 0.0)


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
