"""Shape targets of locations. Pure functions on tensors, without gradient.

Shape shorthand in this module:

    N: number of images
    M: number of objects in one image
    H, W: height and width of a level, in locations
    B: width and height of a window of locations
    n: number of locations that have a shape target
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from anchor_heads.modeling.matching import flat_objects


class ShapeTargets(NamedTuple):
    """Targets of n locations."""

    half_sizes: Tensor
    """(n, 2) half the width and height, in pixels, of the smallest box centered on the location
    that contains its object."""
    quality: Tensor
    """(n,) in (0, 1], the IoU of that box with the object."""
    centerness: Tensor
    """(n,) in (0, 1], 1 at the centre of the object (FCOS, equation 3)."""


@torch.no_grad()
def objects_by_center(
    gt_boxes: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    offset: float,
    center_radius: float,
    distances: Sequence[tuple[float, float]],
    by_short_side: bool = False,
) -> Tensor:
    """The object that is the shape target of each location.

    The location lies inside the object, near its centre, and the distance to the farthest side of
    the object is in the range of the level. Of several such objects the smallest counts, of equal
    ones the first. (The rule of FCOS with centre sampling.)

    Args:
        gt_boxes (sequence of Tensor): for each of N images (M, 4) in pixels, M may be 0.
        sizes (sequence): H, W of each level.
        strides (sequence of int): pixels from one location to the next, of each level.
        offset (float): where the first location lies, in strides.
        center_radius (float): how close to the centre, along x and along y, in strides.
        distances (sequence): of each level the least and the greatest, in pixels, both included.
        by_short_side (bool): see :func:`locations_by_center`.

    Returns:
        Tensor: (N, R) int64 indices of objects of the image, -1 where there is none. R is the
        number of locations of all levels.
    """
    boxes, image, number = flat_objects(gt_boxes)
    device = boxes.device
    order = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).argsort(stable=True)
    boxes, image = boxes[order], image[order, None, None]
    rank = torch.arange(len(order), device=device)[:, None, None]

    smallest = []
    for size, stride, limits in zip(sizes, strides, distances, strict=True):
        inside, index = locations_by_center(
            boxes, size, stride, offset, center_radius * stride, limits, by_short_side
        )
        # At other locations the object has a rank after all others.
        index = (index + image * math.prod(size)).where(inside, 0)
        level = torch.full((len(gt_boxes) * math.prod(size),), len(order), device=device)
        level.scatter_reduce_(0, index.flatten(), rank.where(inside, len(order)).flatten(), "amin")
        smallest.append(level.view(len(gt_boxes), -1))
    return torch.cat([number[order], number.new_tensor([-1])])[torch.cat(smallest, dim=1)]


@torch.no_grad()
def locations_by_center(
    gt_boxes: Tensor,
    size: tuple[int, int] | tuple[Tensor, Tensor],
    stride: int,
    offset: float,
    radius: float,
    distances: tuple[float, float],
    by_short_side: bool = False,
) -> tuple[Tensor, Tensor]:
    """The locations of a level whose shape target each object is, if no smaller one is.

    Args:
        gt_boxes (Tensor): (M, 4) in pixels.
        size (tuple): H, W; or a tensor (M,) of each for objects of images of several sizes.
        stride (int): pixels from one location to the next.
        offset (float): where the first location lies, in strides.
        radius (float): how close to the centre, along x and along y, in pixels.
        distances (tuple[float, float]): the least and the greatest, in pixels, both included.
        by_short_side (bool): whether the distance that counts is that to the farther of left and
            right, or to the farther of top and bottom, whichever is less. False: the greater of
            these two, which is the distance to the farthest side.

    Returns:
        Tensor: (M, B, B) bool, for each object in a window of locations whether it is their target.
        Tensor: (M, B, B) int64 indices of these locations into the flattened (H, W).
    """
    height, width = (x.view(-1, 1, 1) if isinstance(x, Tensor) else x for x in size)
    centers = (gt_boxes[:, :2] + gt_boxes[:, 2:]) / 2
    regions = torch.cat(
        [
            torch.maximum(centers - radius, gt_boxes[:, :2]),
            torch.minimum(centers + radius, gt_boxes[:, 2:]),
        ],
        dim=1,
    )

    # Only these can be near the centre: B columns and B rows for each object, one of them for
    # what rounding may do to the first.
    most = 2 * radius / stride
    if not isinstance(height, Tensor):
        most = min(most, max(size))
    window = torch.arange(math.ceil(most) + 2, device=gt_boxes.device)
    first = ((centers - radius) / stride - offset).floor().clamp(min=0).long()
    x = (first[:, :1] + window)[:, None, :]
    y = (first[:, 1:] + window)[:, :, None]
    points = torch.stack(torch.broadcast_tensors(x, y), dim=-1).add(offset) * stride  # (M, B, B, 2)
    inside = _distances(points, regions[:, None, None]).amin(dim=-1) > 0
    left_top, right_bottom = _distances(points, gt_boxes[:, None, None]).split(2, dim=-1)
    farther = torch.maximum(left_top, right_bottom)  # along x, along y
    farthest = farther.amin(dim=-1) if by_short_side else farther.amax(dim=-1)
    inside &= (farthest >= distances[0]) & (farthest <= distances[1])
    return inside & (x < width) & (y < height), y * width + x


@torch.no_grad()
def shape_targets(points: Tensor, gt_boxes: Tensor) -> ShapeTargets:
    """Shape targets of locations inside their objects.

    Args:
        points (Tensor): (n, 2) locations in pixels.
        gt_boxes (Tensor): (n, 4), the object of each, which has it strictly inside.
    """
    distances = _distances(points, gt_boxes).view(-1, 2, 2)  # left, top; right, bottom
    near, far = distances.amin(dim=1), distances.amax(dim=1)
    size = distances.sum(dim=1)
    return ShapeTargets(
        half_sizes=far,
        quality=size.prod(dim=1) / (4 * far.prod(dim=1)),
        centerness=(near / far).prod(dim=1).sqrt(),
    )


def _distances(points: Tensor, boxes: Tensor) -> Tensor:
    """(..., 4) from points to the left, top, right and bottom sides of boxes; inside if above 0."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)
