"""Anchors that a network predicts: squares on a grid, stretched by predicted shapes, and features
that are made to fit them."""

from .feature_adaption import FeatureAdaption
from .shaped_anchors import SquareGenerator, build_square_generator, decode_shapes, shape_scale

__all__ = [
    "FeatureAdaption",
    "SquareGenerator",
    "build_square_generator",
    "decode_shapes",
    "shape_scale",
]
