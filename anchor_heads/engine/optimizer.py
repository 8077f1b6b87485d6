"""The optimizer of a run."""

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``SOLVER.OPTIMIZER`` names, with Detectron2's parameter groups.

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
    if solver.OPTIMIZER == "SGD":
        return build_sgd(cfg, model)
    if solver.OPTIMIZER == "AdamW":
        groups = get_default_optimizer_params(
            model,
            base_lr=solver.BASE_LR,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            bias_lr_factor=solver.BIAS_LR_FACTOR,
            weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        )
        optimizer = torch.optim.AdamW(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)
        return maybe_add_gradient_clipping(cfg, optimizer)
    raise ValueError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; write 'SGD' or 'AdamW'.")
