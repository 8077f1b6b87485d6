"""The optimizer of a run."""

import torch
from detectron2.config import CfgNode
from detectron2.solver import build_optimizer as build_sgd
from detectron2.solver import get_default_optimizer_params
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer that ``SOLVER.OPTIMIZER`` names, with Detectron2's parameter groups.

    Raises:
        ValueError: if it is neither "SGD" nor "AdamW".
    """
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
