"""What FreeAnchor asks of the anchors. Pure functions on tensors, without gradient.

Shape shorthand in this module:

    M: number of objects in one image
    R: number of anchors of one image, over all levels
    K: number of classes
    B: number of anchors in a bag
"""

import torch
from torch import Tensor

from anchor_heads.modeling.matching import pairwise_iou_chunks


@torch.no_grad()
def anchor_bags(gt_boxes: Tensor, anchors: Tensor, bag_size: int) -> Tensor:
    """The bag of candidate anchors of each object: those that overlap it most.

    Args:
        gt_boxes (Tensor): (M, 4).
        anchors (Tensor): (R, 4), not decoded.
        bag_size (int): anchors in a bag; where there are fewer anchors, a bag holds all of them.

    Returns:
        Tensor: (M, B) int64 indices of anchors, in no particular order; B = min(bag_size, R).
    """
    size = min(bag_size, len(anchors))
    bags = torch.empty((len(gt_boxes), size), dtype=torch.int64, device=anchors.device)
    for chunk, iou in pairwise_iou_chunks(gt_boxes, anchors):
        bags[chunk] = iou.topk(size, dim=1, sorted=False).indices
    return bags


@torch.no_grad()
def localization_probability(
    gt_boxes: Tensor, gt_classes: Tensor, pred_boxes: Tensor, num_classes: int, iou_thresh: float
) -> tuple[Tensor, Tensor]:
    """Probability that an anchor's predicted box localises some object of a class.

    For one object it rises linearly with the IoU of the predicted box, from 0 at ``iou_thresh``
    to 1 at the best IoU that any box reaches (the paper's Saturated linear function); over the
    objects of one class the maximum counts. It is 0 for all but a few pairs of anchor and class:
    those few are returned.

    Args:
        gt_boxes (Tensor): (M, 4).
        gt_classes (Tensor): (M,) int64 in [0, K).
        pred_boxes (Tensor): (R, 4) decoded boxes.
        num_classes (int): K.
        iou_thresh (float): IoU at which the probability leaves 0.

    Returns:
        Tensor: (P,) int64, where the probability is above 0: indices into the flattened (R, K).
        Tensor: (P,) float32, the probability there, in (0, 1].
    """
    keys, values = [gt_classes.new_zeros(0)], [pred_boxes.new_zeros(0)]
    for chunk, iou in pairwise_iou_chunks(gt_boxes, pred_boxes):
        best = iou.amax(dim=1)
        objects, boxes = (iou > iou_thresh).nonzero(as_tuple=True)
        values.append((iou[objects, boxes] - iou_thresh) / (best[objects] - iou_thresh))
        keys.append(boxes * num_classes + gt_classes[chunk][objects])
    index, inverse = torch.cat(keys).unique(return_inverse=True)
    values = torch.cat(values)
    probability = values.new_zeros(len(index)).scatter_reduce_(0, inverse, values, "amax")
    return index, probability
