"""How wrong shapes and boxes are. Pure functions."""

import torch
from detectron2.structures import Boxes
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor

# Keeps the logarithm finite where boxes do not meet; the published value.
LEAST_IOU = 1e-6


def iou_loss(boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """The negative logarithm of the IoU (UnitBox, Yu et al. 2016).

    Args:
        boxes (Tensor): (n, 4).
        gt_boxes (Tensor): (n, 4).

    Returns:
        Tensor: (n,).
    """
    return -matched_pairwise_iou(Boxes(boxes), Boxes(gt_boxes)).clamp(min=LEAST_IOU).log()


def shape_loss(half_sizes: Tensor, target_half_sizes: Tensor) -> Tensor:
    """:func:`iou_loss` of boxes with the same centre, which therefore does not matter.

    Args:
        half_sizes (Tensor): (n, 2) half the width and height.
        target_half_sizes (Tensor): (n, 2) in the same units.

    Returns:
        Tensor: (n,).
    """
    return iou_loss(*(torch.cat([-half, half], dim=1) for half in (half_sizes, target_half_sizes)))
