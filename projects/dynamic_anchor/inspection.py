"""Dynamic anchors for pictures: the best one of each object."""

import torch
from detectron2.structures import Instances
from torch import Tensor

from anchor_heads.anchor_generation.inspection import InspectedAnchors
from anchor_heads.modeling.matching import pairwise_iou_chunks


def inspect_dynamic_anchors(
    anchors: list[Tensor], image_size: tuple[int, int], objects: Instances
) -> InspectedAnchors:
    """The anchor that overlaps each object most, that of the first object first.

    Args:
        anchors (list[Tensor]): (1, Hi*Wi, 4) per level.
        image_size (tuple[int, int]): height and width of the image, in pixels.
        objects (Instances): with "gt_boxes".
    """
    boxes = torch.cat(anchors, dim=1)[0]
    best = torch.zeros(len(objects), dtype=torch.int64, device=boxes.device)
    strength = boxes.new_zeros(len(objects))
    for chunk, iou in pairwise_iou_chunks(objects.gt_boxes.tensor, boxes):
        strength[chunk], best[chunk] = iou.max(dim=1)
    return InspectedAnchors(
        image_size,
        boxes[best],
        strength,
        "IoU",
        f"{len(best)} of {len(boxes)} dynamic anchors, the best of each object",
    )
