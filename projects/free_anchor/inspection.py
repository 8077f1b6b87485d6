"""FreeAnchor's anchors for pictures: the bags, and how likely each of their anchors is."""

import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor

from anchor_heads.anchor_generation.inspection import InspectedAnchors

from .likelihood import FreeAnchorLoss


def inspect_bags(
    free_anchor_loss: FreeAnchorLoss,
    anchors: list[Boxes],
    pred_logits: list[Tensor],
    pred_deltas: list[Tensor],
    image_size: tuple[int, int],
    objects: Instances,
) -> InspectedAnchors:
    """The anchors of each object's bag, those of the first object first.

    Args:
        free_anchor_loss (FreeAnchorLoss): whose likelihood counts.
        anchors (list[Boxes]): Hi*Wi*Ai per level.
        pred_logits (list[Tensor]): (1, Hi*Wi*Ai, K) per level.
        pred_deltas (list[Tensor]): (1, Hi*Wi*Ai, 4) per level.
        image_size (tuple[int, int]): height and width of the image, in pixels.
        objects (Instances): with "gt_boxes" and "gt_classes" in [0, K).
    """
    boxes = Boxes.cat(anchors).tensor
    bags, log_matches = free_anchor_loss.log_matches(
        boxes,
        torch.cat(pred_logits, dim=1).float(),
        torch.cat(pred_deltas, dim=1).float(),
        [objects.gt_boxes.tensor],
        [objects.gt_classes],
    )
    return InspectedAnchors(
        image_size,
        boxes[bags.flatten()],
        log_matches.flatten().exp(),
        "likelihood",
        f"Bags of {bags.shape[1]} anchors, one for each object",
    )
