"""Anchors from predicted shapes: one square per location, stretched."""

import math

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from torch import Tensor

# Widths and heights stay within a factor of a million of the square's, as published.
MAX_LOG_STRETCH = -math.log(1e-6)


class SquareGenerator(DefaultAnchorGenerator):
    """Generator of one square per location, by rows, around the same centres as other anchors."""

    def __init__(self, *, sides: list[float], strides: list[int], offset: float):
        """
        Args:
            sides (list[float]): sides of the squares of each level in pixels, ascending.
            strides (list[int]): pixels from one location of a level to the next.
            offset (float): where the first square has its centre, as a share of the stride.

        Raises:
            ValueError: if the sides do not grow from level to level.
        """
        if sides != sorted(set(sides)):
            raise ValueError(
                f"The smallest MODEL.ANCHOR_GENERATOR.SIZES of the levels are {sides}; they must "
                "grow from level to level, for each object to belong to one of them."
            )
        super().__init__(
            sizes=[[side] for side in sides], aspect_ratios=[[1.0]], strides=strides, offset=offset
        )
        self.sides = sides


def build_square_generator(cfg: CfgNode, input_shape: list[ShapeSpec]) -> SquareGenerator:
    """Build the generator of the squares that predicted anchors start from.

    Args:
        cfg (CfgNode): reads ``MODEL.ANCHOR_GENERATOR``. The side of a level's squares is the
            smallest of its ``SIZES``; ``ASPECT_RATIOS`` are left aside.
        input_shape (list[ShapeSpec]): one per level, with its stride.
    """
    sizes = cfg.MODEL.ANCHOR_GENERATOR.SIZES
    if not isinstance(sizes[0], (list, tuple)):  # Detectron2 accepts one list for all levels
        sizes = [sizes]
    if len(sizes) == 1:
        sizes = list(sizes) * len(input_shape)
    return SquareGenerator(
        sides=[float(min(level)) for level in sizes],
        strides=[shape.stride for shape in input_shape],
        offset=cfg.MODEL.ANCHOR_GENERATOR.OFFSET,
    )


def stretch(squares: Tensor, deltas: Tensor) -> Tensor:
    """Anchors with the centres of the squares and exp(deltas) times their sides.

    Args:
        squares (Tensor): (..., 4) boxes.
        deltas (Tensor): (..., 2), logarithms of the factors of width and height.

    Returns:
        Tensor: (..., 4) boxes, not clipped to the image.
    """
    upper_left, lower_right = squares[..., :2], squares[..., 2:]
    factor = deltas.clamp(-MAX_LOG_STRETCH, MAX_LOG_STRETCH).exp()
    centre, half = (upper_left + lower_right) / 2, (lower_right - upper_left) / 2 * factor
    return torch.cat([centre - half, centre + half], dim=-1)
