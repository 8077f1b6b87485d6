"""The optimizer of a run."""

import torch
from detectron2.config import CfgNode
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from anchor_heads.layers import ModulatedDeformConvPack

_NORMS = (
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    nn.SyncBatchNorm,
    nn.InstanceNorm1d,
    nn.InstanceNorm2d,
    nn.InstanceNorm3d,
    nn.GroupNorm,
    nn.LayerNorm,
)


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``SOLVER.OPTIMIZER`` names, with Detectron2's parameter groups; where
    ``SOLVER.BIAS_RULE_FOR_ALL`` is False, with mmcv's.

    Beside Detectron2's types of gradient clipping, "value" and "norm", which look at each
    parameter alone, ``SOLVER.CLIP_GRADIENTS.CLIP_TYPE`` may be "full_model": the norm of the
    gradients of all parameters together.

    Raises:
        ValueError: if ``SOLVER.OPTIMIZER`` is neither "SGD" nor "AdamW".
    """
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED or clip.CLIP_TYPE != "full_model":
        return _build_optimizer(cfg, model)

    unclipped = cfg.clone()
    unclipped.defrost()
    unclipped.SOLVER.CLIP_GRADIENTS.ENABLED = False
    optimizer = _build_optimizer(unclipped, model)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def clip_gradients(*_) -> None:
        nn.utils.clip_grad_norm_(parameters, clip.CLIP_VALUE, clip.NORM_TYPE)

    optimizer.register_step_pre_hook(clip_gradients)
    return optimizer


def _build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    solver = cfg.SOLVER
    groups = _parameter_groups(solver, model)
    settings = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    if solver.OPTIMIZER == "SGD":
        momentum = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV}
        optimizer = torch.optim.SGD(groups, foreach=True, **settings, **momentum)
    elif solver.OPTIMIZER == "AdamW":
        optimizer = torch.optim.AdamW(groups, **settings)
    else:
        raise ValueError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; write 'SGD' or 'AdamW'.")
    return maybe_add_gradient_clipping(cfg, optimizer)


def _parameter_groups(solver: CfgNode, model: nn.Module) -> list[dict]:
    def groups(**bias_rule):
        return get_default_optimizer_params(
            model,
            base_lr=solver.BASE_LR,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            **bias_rule,
        )

    ruled = groups(bias_lr_factor=solver.BIAS_LR_FACTOR, weight_decay_bias=solver.WEIGHT_DECAY_BIAS)
    if solver.BIAS_RULE_FOR_ALL:
        return ruled
    spared = {id(bias) for bias in _norm_and_offset_biases(model)}
    parts = [(group, False) for group in ruled] + [(group, True) for group in groups()]
    parts = [
        {**group, "params": [p for p in group["params"] if (id(p) in spared) == is_spared]}
        for group, is_spared in parts
    ]
    return [part for part in parts if part["params"]]


def _norm_and_offset_biases(model: nn.Module):
    for module in model.modules():
        if isinstance(module, _NORMS):
            yield module.bias
        elif isinstance(module, ModulatedDeformConvPack):
            yield module.conv_offset.bias
