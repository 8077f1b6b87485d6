"""Anchors of predicted shape, feature adaption, and the interface through which tools see a
model's anchors."""

from .dense_anchors import DenseAnchorStrategy
from .feature_adaption import FeatureAdaption
from .shaped_anchors import (
    SquareGenerator,
    build_square_generator,
    decode_levels,
    decode_shapes,
    shape_scale,
)
from .strategy import (
    AnchorStrategy,
    Assignment,
    Coverage,
    LevelAnchors,
    LocationMap,
    get_anchor_strategy,
)

__all__ = [
    "AnchorStrategy",
    "Assignment",
    "Coverage",
    "DenseAnchorStrategy",
    "FeatureAdaption",
    "LevelAnchors",
    "LocationMap",
    "SquareGenerator",
    "build_square_generator",
    "decode_levels",
    "decode_shapes",
    "get_anchor_strategy",
    "shape_scale",
]
