"""Anchors from predicted shapes: one square per location, scaled in width and height.

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
from detectron2.structures import Boxes
from torch import Tensor

from anchor_heads.modeling.preset_shape_checks import shapes_by_level

# Widths and heights stay within a factor of a million of the square's, as published.
MAX_LOG_SCALE = -math.log(1e-6)

# Detectron2's FPN and the published methods pad images to multiples of this.
PADDING_MULTIPLE = 32


def map_size(image_size: int | Tensor, stride: int) -> int | Tensor:
    """The rows or columns of a level on a padded image of this height or width."""
    padded = -(-image_size // PADDING_MULTIPLE) * PADDING_MULTIPLE
    return -(-padded // stride)


def smallest_sizes(generator: DefaultAnchorGenerator) -> list[float]:
    """The square root of the area of each level's smallest anchor, in pixels, to 0.001."""
    return [round(float(Boxes(x).area().min().sqrt()), 3) for x in generator.cell_anchors]


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
            ValueError: if the sides are not above 0, or do not grow from level to level.
        """
        if not sides[0] > 0 or sides != sorted(set(sides)):
            raise ValueError(
                f"The smallest anchor sizes of the levels are {sides}; they must be above 0 and "
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
        """Which locations lie on an image, padded to multiples of 32 by itself as in published
        training.

        Args:
            features (list[Tensor]): (N, C, H, W) per level.
            image_sizes (sequence): N pairs (height, width) in pixels.

        Returns:
            Tensor: (N, R) bool.
        """
        return torch.cat(
            [
                self._valid_level(tuple(x.shape[2:]), stride, image_sizes, x.device)
                for x, stride in zip(features, self.strides, strict=True)
            ],
            dim=1,
        )

    @staticmethod
    def _valid_level(size, stride, image_sizes, device):
        """(N, H*W) of one level."""
        height, width = size
        limits = [[map_size(side, stride) for side in x] for x in image_sizes]
        if all(rows >= height and columns >= width for rows, columns in limits):
            return torch.ones((len(limits), height * width), dtype=torch.bool, device=device)
        rows, columns = torch.tensor(limits, device=device).unsqueeze(-1).unbind(1)  # (N, 1) each
        row, column = (torch.arange(number, device=device) for number in size)
        return ((row < rows)[:, :, None] & (column < columns)[:, None]).flatten(1)

    @classmethod
    def of(cls, generator: DefaultAnchorGenerator) -> "SquareGenerator":
        """Squares of the smallest size of each level of a generator, around the same centres."""
        return cls(
            sides=smallest_sizes(generator), strides=generator.strides, offset=generator.offset
        )


def build_square_generator(
    cfg: CfgNode, strides: list[int], aspect_ratio: float = 1.0
) -> SquareGenerator:
    """Build the generator of the squares that predicted anchors start from.

    Args:
        cfg (CfgNode): reads ``MODEL.ANCHOR_GENERATOR``. The side of a level's squares is the
            smallest of its ``SIZES``; ``ASPECT_RATIOS`` are left aside.
        strides (list[int]): pixels from one location to the next, per level.
        aspect_ratio (float): height over width of the squares.

    Raises:
        ValueError: if the sides are not above 0, or do not grow from level to level.
    """
    sizes = shapes_by_level(cfg.MODEL.ANCHOR_GENERATOR.SIZES, len(strides))
    return SquareGenerator(
        sides=[float(min(level)) for level in sizes],
        strides=strides,
        offset=cfg.MODEL.ANCHOR_GENERATOR.OFFSET,
        aspect_ratio=aspect_ratio,
    )


def shape_scale(deltas: Tensor) -> Tensor:
    """exp(deltas), within a factor of a million of 1."""
    return deltas.clamp(-MAX_LOG_SCALE, MAX_LOG_SCALE).exp()


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


def decode_levels(squares: Sequence[Tensor], deltas: Sequence[Tensor]) -> list[Tensor]:
    """:func:`decode_shapes` of all locations of all levels, in one go.

    Args:
        squares (sequence of Tensor): (H*W, 4) per level.
        deltas (sequence of Tensor): (N, H*W, 2) per level.

    Returns:
        list[Tensor]: (N, H*W, 4) per level.
    """
    anchors = decode_shapes(torch.cat(list(squares)), torch.cat(list(deltas), dim=1))
    return list(anchors.split([len(level) for level in squares], dim=1))
