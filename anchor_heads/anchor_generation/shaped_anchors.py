"""Anchors from predicted shapes: one square per location, stretched.

Shape shorthand in this module:

    N: number of images
    C, H, W: channels, height and width of a feature level
    R: number of locations of one image over all levels, each level by rows
"""

import math
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from torch import Tensor

# Widths and heights stay within a factor of a million of the square's, as published.
MAX_LOG_STRETCH = -math.log(1e-6)
# Published training pads each image to multiples of this, and lets only cells in it learn.
PADDING_MULTIPLE = 32


class SquareGenerator(DefaultAnchorGenerator):
    """Generator of one square per location, by rows, around the same centres as other anchors.

    With an aspect ratio they are boxes of the same area.
    """

    def __init__(
        self,
        *,
        sides: list[float],
        strides: list[int],
        offset: float,
        aspect_ratio: float = 1.0,
    ):
        """
        Args:
            sides (list[float]): sides of the squares of each level in pixels, ascending.
            strides (list[int]): pixels from one location of a level to the next.
            offset (float): where the first square has its centre, as a share of the stride.
            aspect_ratio (float): height over width, above 0.

        Raises:
            ValueError: if the sides do not grow from level to level.
        """
        if sides != sorted(set(sides)):
            raise ValueError(
                f"The smallest MODEL.ANCHOR_GENERATOR.SIZES of the levels are {sides}; they must "
                "grow from level to level, for each object to belong to one of them. Write a list "
                "of sizes per level."
            )
        super().__init__(
            sizes=[[side] for side in sides],
            aspect_ratios=[[aspect_ratio]],
            strides=strides,
            offset=offset,
        )
        self.sides = sides

    def valid_mask(self, features: list[Tensor], image_sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Which locations lie on an image, padded to multiples of 32 by itself.

        Args:
            features (list[Tensor]): (N, C, H, W) per level.
            image_sizes (sequence): N pairs (height, width) in pixels.

        Returns:
            Tensor: (N, R) bool.
        """
        batch = []
        for image_size in image_sizes:
            padded = [-(-side // PADDING_MULTIPLE) * PADDING_MULTIPLE for side in image_size]
            inside = []
            for x, stride in zip(features, self.strides, strict=True):
                cells = torch.zeros(x.shape[2:], dtype=torch.bool)
                height, width = (-(-side // stride) for side in padded)
                cells[:height, :width] = True
                inside.append(cells.flatten())
            batch.append(torch.cat(inside))
        return torch.stack(batch).to(features[0].device)


def build_square_generator(
    cfg: CfgNode, strides: list[int], aspect_ratio: float = 1.0
) -> SquareGenerator:
    """Build the generator of the squares that predicted anchors start from.

    Args:
        cfg (CfgNode): reads ``MODEL.ANCHOR_GENERATOR``. The side of a level's squares is the
            smallest of its ``SIZES``; ``ASPECT_RATIOS`` are left aside.
        strides (list[int]): pixels from one location to the next, per level.
        aspect_ratio (float): height over width of the squares.
    """
    sizes = cfg.MODEL.ANCHOR_GENERATOR.SIZES
    if not isinstance(sizes[0], (list, tuple)):  # Detectron2 accepts one list for all levels
        sizes = [sizes]
    if len(sizes) == 1:
        sizes = list(sizes) * len(strides)
    return SquareGenerator(
        sides=[float(min(level)) for level in sizes],
        strides=strides,
        offset=cfg.MODEL.ANCHOR_GENERATOR.OFFSET,
        aspect_ratio=aspect_ratio,
    )


def shape_scale(deltas: Tensor) -> Tensor:
    """exp(deltas), within a factor of a million of 1."""
    return deltas.clamp(-MAX_LOG_STRETCH, MAX_LOG_STRETCH).exp()


def decode_shapes(squares: Tensor, deltas: Tensor) -> Tensor:
    """Anchors with the centres of the squares and :func:`shape_scale` times their sides.

    Args:
        squares (Tensor): (..., 4) boxes.
        deltas (Tensor): (..., 2), logarithms of the factors of width and height.

    Returns:
        Tensor: (..., 4) boxes, not clipped to the image.
    """
    upper_left, lower_right = squares[..., :2], squares[..., 2:]
    centre, half = (upper_left + lower_right) / 2, (lower_right - upper_left) / 2
    half = half * shape_scale(deltas)
    return torch.cat([centre - half, centre + half], dim=-1)
