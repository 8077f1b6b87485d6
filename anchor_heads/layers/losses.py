"""Losses that fvcore lacks."""

import torch
from detectron2.structures import Boxes
from detectron2.structures.boxes import matched_pairwise_iou
from fvcore.nn import smooth_l1_loss
from torch import Tensor

# Keeps the logarithm finite where boxes do not meet; the published value.
LEAST_IOU = 1e-6


def bounded_iou_loss(boxes: Tensor, gt_boxes: Tensor, beta: float, eps: float = 1e-3) -> Tensor:
    """Bounded IoU loss, the sum over centre x, centre y, width and height.

    For each of the four, 1 - the highest IoU that a box could reach if only this one were off,
    under a smooth L1 (Tychsen-Smith and Petersson, "Improving Object Localization with Fitness NMS
    and Bounded IoU Loss"; Guided Anchoring trains shapes with it).

    Args:
        boxes (Tensor): (n, 4).
        gt_boxes (Tensor): (n, 4), of positive width and height.
        beta (float): where smooth L1 becomes linear.
        eps (float): keeps quotients finite; the published value.

    Returns:
        Tensor: scalar, the sum over the boxes.
    """
    size, gt_size = boxes[:, 2:] - boxes[:, :2], gt_boxes[:, 2:] - gt_boxes[:, :2]
    twice_off = (gt_boxes[:, :2] + gt_boxes[:, 2:] - boxes[:, :2] - boxes[:, 2:]).abs()
    centre = 1 - ((gt_size - twice_off) / (gt_size + twice_off + eps)).clamp(min=0)
    extent = 1 - torch.minimum(gt_size / (size + eps), size / (gt_size + eps))
    loss = torch.cat([centre, extent], dim=1)
    return smooth_l1_loss(loss, torch.zeros_like(loss), beta, reduction="sum")


def iou_loss(boxes: Tensor, gt_boxes: Tensor) -> Tensor:
    """The negative logarithm of the IoU (UnitBox, Yu et al. 2016).

    Args:
        boxes (Tensor): (n, 4).
        gt_boxes (Tensor): (n, 4).

    Returns:
        Tensor: (n,).
    """
    return -matched_pairwise_iou(Boxes(boxes), Boxes(gt_boxes)).clamp(min=LEAST_IOU).log()
