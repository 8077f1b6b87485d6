"""How well anchors of preset shapes can fit objects.

Shape shorthand in this module:

    M: number of objects
    L: number of feature levels
    A: number of anchors at a location
"""

import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor

from .shaped_anchors import map_size


def best_preset_iou(
    boxes: Tensor, image_sizes: Tensor, generator: DefaultAnchorGenerator
) -> tuple[Tensor, Tensor]:
    """The highest IoU that objects have with the anchors of a generator.

    Of anchors of one shape that at the location next to the object's centre has the highest IoU, so
    that no other location is looked at.

    Args:
        boxes (Tensor): (M, 4) in pixels.
        image_sizes (Tensor): (M, 2) height and width of each object's image.
        generator (DefaultAnchorGenerator): of L levels.

    Returns:
        Tensor: (M, L) the highest IoU on each level.
        Tensor: (M,) the highest IoU with anchors around the object's centre itself.
    """
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    at_locations, at_centers = [], []
    levels = zip(generator.strides, generator.cell_anchors, strict=True)
    for stride, cell_anchors in levels:
        size = map_size(image_sizes, stride).flip(1)  # columns, rows
        index = (centers / stride - generator.offset).round().clamp(min=0)
        locations = (torch.minimum(index, size - 1) + generator.offset) * stride
        cell_anchors = cell_anchors.to(boxes)
        at_locations.append(_best_iou(boxes, locations, cell_anchors))
        at_centers.append(_best_iou(boxes, centers, cell_anchors))
    return torch.stack(at_locations, dim=1), torch.stack(at_centers, dim=1).amax(dim=1)


def _best_iou(boxes, points, cell_anchors):
    """(M,) the highest IoU of each box with A anchors around its point (M, 2)."""
    anchors = points.repeat(1, 2)[:, None] + cell_anchors  # (M, A, 4)
    objects = boxes[:, None].expand_as(anchors)
    iou = matched_pairwise_iou(Boxes(objects.reshape(-1, 4)), Boxes(anchors.reshape(-1, 4)))
    return iou.view(anchors.shape[:2]).amax(dim=1)
