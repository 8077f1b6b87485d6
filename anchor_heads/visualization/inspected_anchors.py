"""Which anchors of an image a picture shows.

Shape shorthand in this module:

    n: number of anchors that are shown
"""

from dataclasses import dataclass, field

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from anchor_heads.anchor_generation.strategy import LocationMap, get_anchor_strategy
from anchor_heads.modeling.matching import anchors_of_highest_iou

# Anchors that are shown of a method that predicts where anchors are.
MAX_ANCHORS = 100


@dataclass(frozen=True)
class InspectedAnchors:
    """Anchors of one image, to be drawn."""

    image_size: tuple[int, int]
    """Height and width of the network's input, without padding."""
    boxes: Tensor
    """(n, 4) in pixels of the network's input."""
    scores: Tensor
    """(n,) in [0, 1]."""
    score_name: str
    """What ``scores`` are, in a word or two."""
    caption: str
    """What these anchors are, and how many."""
    location_maps: list[LocationMap] = field(default_factory=list)
    """One per level, of methods that predict where anchors are; else empty."""


@torch.no_grad()
def inspect_anchors(model: nn.Module, image: Tensor, objects: Instances) -> InspectedAnchors:
    """The anchors of an image that are assigned to its objects; of a method that predicts where
    anchors are, those with the highest location probability.

    Args:
        model (nn.Module): see :func:`get_anchor_strategy`.
        image (Tensor): (C, height, width), resized for the network, in its channel order.
        objects (Instances): with "gt_boxes" and "gt_classes", in the frame of ``image``.

    Returns:
        InspectedAnchors: on the model's device.

    Raises:
        TypeError: see :func:`get_anchor_strategy`.
        ValueError: if an object is of a class that the model does not know.
    """
    strategy, features, predictions = _predict(model, image)
    image_size = tuple(image.shape[1:])
    assignment = strategy.assignments(
        features, predictions, image_size, objects.to(features[0].device)
    )[-1]
    if strategy.predicts_locations:
        return _most_likely(strategy.level_anchors(features, predictions, image_size), image_size)
    counts = f"{len(assignment.boxes)} of {assignment.num_anchors} anchors"
    return InspectedAnchors(
        image_size,
        assignment.boxes,
        assignment.scores,
        assignment.score_name,
        f"{counts}, those assigned to an object: {assignment.rule}",
    )


@torch.no_grad()
def inspect_best_anchors(model: nn.Module, image: Tensor, objects: Instances) -> InspectedAnchors:
    """The anchor that overlaps each object most, whatever the assignment rule.

    Args: see :func:`inspect_anchors`; there must be an object.
    """
    strategy, *predicted = _predict(model, image)
    image_size = tuple(image.shape[1:])
    anchors = torch.cat([x.boxes for x in strategy.level_anchors(*predicted, image_size)])
    iou, indices = anchors_of_highest_iou(objects.gt_boxes.tensor.to(anchors.device), anchors)
    caption = f"The anchor with the highest IoU with each object; the mean IoU is {iou.mean():.2f}"
    if not len(anchors):
        iou, indices = iou[:0], indices[:0]
    return InspectedAnchors(image_size, anchors[indices], iou, "IoU", caption)


def _predict(model, image):
    """The model's strategy, its features of an image, and what its head predicts for them."""
    strategy = get_anchor_strategy(model)
    features = strategy.features(strategy.preprocess(image))
    return strategy, features, strategy.head(features)


def _most_likely(levels, image_size) -> InspectedAnchors:
    boxes = torch.cat([x.boxes for x in levels])
    probability = torch.cat([x.location_scores for x in levels])
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = (centers < centers.new_tensor(image_size[::-1])).all(dim=1)  # not in the padding
    boxes, probability = boxes[inside], probability[inside]
    best = probability.topk(min(len(boxes), MAX_ANCHORS)).indices
    maps = [x.location_map for x in levels]
    return InspectedAnchors(
        image_size,
        boxes[best],
        probability[best],
        "location probability",
        f"Best {len(best)} of {len(boxes)} anchors with location probability >= "
        f"{maps[0].threshold:g}",
        maps,
    )
