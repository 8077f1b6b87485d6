import torch
from detectron2.structures import Boxes, pairwise_iou
from torch import Tensor


def best_anchor(gt_boxes: Boxes, anchors: Boxes) -> tuple[Tensor, Tensor]:
    """(M,) the anchor that overlaps each object most, and their IoU."""
    iou, indices = pairwise_iou(gt_boxes, anchors).max(dim=1)
    return indices, iou


def labels_of(gt_boxes: Boxes, anchors: Boxes) -> tuple[Tensor, Tensor]:
    """(R,) whether each anchor is assigned to an object, and to which."""
    indices, _ = best_anchor(gt_boxes, anchors)
    matched_idxs = torch.full((len(anchors),), -1, device=indices.device)
    matched_idxs[indices] = torch.arange(len(gt_boxes), device=indices.device)
    return matched_idxs >= 0, matched_idxs.clamp(min=0)
