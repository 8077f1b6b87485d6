"""The shape loss, a pure function."""

import torch
from torch import Tensor

from anchor_heads.layers import iou_loss


def shape_loss(half_sizes: Tensor, target_half_sizes: Tensor) -> Tensor:
    """:func:`iou_loss` of boxes with the same centre, which therefore does not matter.

    Args:
        half_sizes (Tensor): (n, 2) half the width and height.
        target_half_sizes (Tensor): (n, 2) in the same units.

    Returns:
        Tensor: (n,).
    """
    return iou_loss(*(torch.cat([-half, half], dim=1) for half in (half_sizes, target_half_sizes)))
