"""All anchors that a model has for an image, by level, with the scores that rank them.

A meta architecture or proposal generator that predicts its anchors says itself which they are, in a
method

    rank_anchors(features, predictions) -> list[tuple[Tensor, Tensor]]

    features (list[Tensor]): the feature maps of one image, as its head takes them.
    predictions: what its head returns for them.

    returns, per level, (Ri, 4) anchors in pixels of the network's input, at most one per location,
    and (Ri,) scores by which the model ranks what it makes of them.

Detectron2's dense anchors are ranked by the probability of their most likely class.

Shape shorthand in this module:

    Ri: number of anchors of one image on level i; may be 0
    Ai: number of anchors per location of level i
"""

from typing import NamedTuple

import torch
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from torch import Tensor, nn


class LevelAnchors(NamedTuple):
    """The anchors of one level. The padding of the image has locations and anchors too."""

    level: str
    """Name of the feature map."""
    boxes: Tensor
    """(Ri, 4) in pixels of the network's input, not clipped to the image."""
    scores: Tensor
    """(Ri,), in [0, 1]."""
    num_locations: int
    """Cells of the feature map."""
    num_kept: int
    """Cells that have anchors."""


@torch.no_grad()
def ranked_anchors(source: nn.Module, features: list[Tensor], predictions) -> list[LevelAnchors]:
    """The anchors of one image.

    Args:
        source (nn.Module): see :func:`anchor_heads.anchor_generation.inspection.anchor_source`.
        features (list[Tensor]): (1, C, H, W) per level, as the head of ``source`` takes them.
        predictions: what the head returns for them.
    """
    if hasattr(source, "rank_anchors"):
        levels, per_location = source.rank_anchors(features, predictions), [1] * len(features)
    else:
        levels, per_location = _dense_anchors(source, features, predictions)
    names = source.in_features if hasattr(source, "in_features") else source.head_in_features
    return [
        LevelAnchors(name, boxes, scores, feature[0, 0].numel(), len(boxes) // anchors)
        for name, (boxes, scores), feature, anchors in zip(
            names, levels, features, per_location, strict=True
        )
    ]


def _dense_anchors(source, features, predictions):
    """Anchors and scores of RetinaNet or RPN per level, and Ai."""
    logits, _ = predictions
    num_classes = getattr(source, "num_classes", 1)
    anchors = source.anchor_generator(features)
    scores = [permute_to_N_HWA_K(x, num_classes)[0].amax(dim=1).sigmoid() for x in logits]
    levels = [(x.tensor, y) for x, y in zip(anchors, scores, strict=True)]
    return levels, source.anchor_generator.num_anchors
