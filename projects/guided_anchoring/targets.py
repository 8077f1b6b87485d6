"""Where anchors are wanted. Pure functions on tensors, without gradient.

Shape shorthand in this module:

    M: number of objects in one image
    L: number of feature levels
    H, W: height and width of a level, in cells
    R: number of cells of one image over all levels, each level by rows
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Weight of a location that no object is near, where those in a centre region have 1.
BACKGROUND_WEIGHT = 0.1


@torch.no_grad()
def location_targets(
    gt_boxes: Tensor,
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    sides: Sequence[float],
    offset: float,
    center_ratio: float,
    ignore_ratio: float,
    by_short_side: bool = False,
) -> tuple[Tensor, Tensor]:
    """Where anchors are wanted (the paper's location targets).

    An object belongs to one level by its size. There its centre region is wanted and the ring
    around it up to the ignore region does not count; where objects overlap, the last one decides
    what counts. On the two levels next to it its ignore region does not count, but for what
    objects of that level say.

    Args:
        gt_boxes (Tensor): (M, 4) in pixels.
        sizes (sequence): L pairs (H, W).
        strides (sequence of int): L strides in pixels.
        sides (sequence of float): L sides of the squares in pixels, ascending.
        offset (float): where the first anchor has its centre, in cells.
        center_ratio, ignore_ratio (float): the regions' shares of an object's width and height.
        by_short_side (bool): see :func:`object_levels`.

    Returns:
        Tensor: (R,) float32 on the CPU, 1 = wanted, 0 = not.
        Tensor: (R,) float32 on the CPU, weights.
    """
    gt_boxes = gt_boxes.cpu()
    levels = object_levels(gt_boxes, sides, by_short_side)
    targets, weights = [], []
    for level, (size, stride) in enumerate(zip(sizes, strides, strict=True)):
        target, weight = torch.zeros(size).numpy(), torch.full(size, BACKGROUND_WEIGHT).numpy()
        boxes = gt_boxes / stride - offset
        own, beside = levels == level, (levels - level).abs() == 1
        for ignored in _regions(boxes[beside], ignore_ratio, size):
            weight[ignored] = 0
        pairs = zip(
            _regions(boxes[own], center_ratio, size),
            _regions(boxes[own], ignore_ratio, size),
            strict=True,
        )
        for center, ignored in pairs:
            weight[ignored] = 0
            weight[center] = 1
            target[center] = 1
        targets.append(torch.from_numpy(target).flatten())
        weights.append(torch.from_numpy(weight).flatten())
    return torch.cat(targets), torch.cat(weights)


def object_levels(gt_boxes: Tensor, sides: Sequence[float], by_short_side: bool = False) -> Tensor:
    """The level of each object: the one whose squares come closest to its size.

    Args:
        gt_boxes (Tensor): (M, 4) in pixels.
        sides (sequence of float): L sides of the squares in pixels, ascending.
        by_short_side (bool): whether an object's size is its shorter side. False: the square root
            of its area.

    Returns:
        Tensor: (M,) int64 in [0, L).
    """
    width, height = (gt_boxes[:, 2:] - gt_boxes[:, :2]).unbind(1)
    sides = torch.as_tensor(sides, dtype=torch.float32, device=gt_boxes.device).log2()
    borders = (sides[1:] + sides[:-1]) / 2
    size = torch.minimum(width, height) if by_short_side else (width * height).sqrt()
    return torch.bucketize(size.log2(), borders, right=True)


def _regions(boxes: Tensor, ratio: float, size: tuple[int, int]) -> list[tuple[slice, slice]]:
    """The rows and columns of the cells in the middle of each box, boxes in cells.

    A region has both its ends, so that it is never empty inside the map.
    """
    border = (1 - ratio) / 2
    start = ((1 - border) * boxes[:, :2] + border * boxes[:, 2:]).round()
    end = (border * boxes[:, :2] + (1 - border) * boxes[:, 2:]).round()
    limit = torch.tensor([size[1], size[0]])
    corners = torch.cat([start.long(), end.long()], dim=1).clamp(min=0).view(-1, 2, 2)
    corners = torch.minimum(corners, limit).flatten(1)
    return [(slice(y0, y1 + 1), slice(x0, x1 + 1)) for x0, y0, x1, y1 in corners.tolist()]
