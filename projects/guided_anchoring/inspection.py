"""Guided anchors for pictures: the location probability, and the best anchors that pass."""

import torch

from anchor_heads.anchor_generation.inspection import InspectedAnchors, crop_location_maps

from .anchoring import GuidedAnchoring
from .head import AnchorPrediction

MAX_ANCHORS = 100


def inspect_guided_anchors(
    guided_anchoring: GuidedAnchoring,
    guides: list[AnchorPrediction],
    levels: list[str],
    image_size: tuple[int, int],
) -> InspectedAnchors:
    """The anchors with the highest location probability, the best first.

    Args:
        guided_anchoring (GuidedAnchoring): makes the anchors.
        guides (list[AnchorPrediction]): one per level, of one image.
        levels (list[str]): names of the feature maps.
        image_size (tuple[int, int]): height and width of the image, in pixels.
    """
    threshold = guided_anchoring.location_thresh
    generator = guided_anchoring.square_generator
    maps = [guide.location[0, 0].sigmoid() for guide in guides]
    shown = crop_location_maps(levels, maps, generator, threshold, image_size)
    # Those in the padding are not shown: less than any threshold.
    inside = [torch.full_like(x, -1) for x in maps]
    for x, location_map in zip(inside, shown, strict=True):
        height, width = location_map.probability.shape
        x[:height, :width] = location_map.probability
    probability = torch.cat([x.flatten() for x in inside])
    passing = int((probability >= threshold).sum())
    best = probability.topk(min(passing, MAX_ANCHORS)).indices
    anchors = torch.cat(guided_anchoring.anchors(guides), dim=1)[0]
    return InspectedAnchors(
        image_size,
        anchors[best],
        probability[best],
        "location probability",
        f"Best {len(best)} of {passing} guided anchors with probability >= {threshold:g}",
        shown,
    )
