"""Where anchors should be. Pure functions on tensors, without gradient.

Shape shorthand in this module:

    N: number of images
    M: number of objects in one image
    L: number of feature levels
    H, W: height and width of a level, in cells
    R: number of cells of one image over all levels, each level by rows
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from anchor_heads.modeling.matching import chunks, pad_objects

# Weight of a location that no object is near, where those in a centre region have 1.
BACKGROUND_WEIGHT = 0.1


@torch.no_grad()
def location_targets(
    gt_boxes: Sequence[Tensor],
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    sides: Sequence[float],
    offset: float,
    center_ratio: float,
    ignore_ratio: float,
    by_short_side: bool = False,
) -> tuple[Tensor, Tensor]:
    """Where anchors should be (the paper's location targets, section 3.5).

    An object belongs to one level by its size. There its centre region is positive and the ring
    around it up to the ignore region does not count; where objects overlap, the last one decides
    what counts. On the two levels next to it its ignore region does not count, but for what
    objects of that level say.

    Args:
        gt_boxes (sequence of Tensor): for each of N images (M, 4) in pixels, M may be 0.
        sizes (sequence): L pairs (H, W).
        strides (sequence of int): L strides in pixels.
        sides (sequence of float): L sides of the squares in pixels, ascending.
        offset (float): where the first anchor has its centre, in cells.
        center_ratio, ignore_ratio (float): the regions' shares of an object's width and height, the
            second not below the first.
        by_short_side (bool): see :func:`object_levels`.

    Returns:
        Tensor: (N, R) float32, 1 = an object's centre region, 0 = not.
        Tensor: (N, R) float32, weights.
    """
    order, boxes, real = pad_objects(gt_boxes)
    back = sorted(range(len(order)), key=order.__getitem__)
    # For each level l, (L, N, M): how far the object's own level is from it.
    level = torch.arange(len(sizes), device=boxes.device)[:, None, None]
    distance = (object_levels(boxes, sides, by_short_side) - level).abs()
    own, beside = (distance == 0) & real, (distance == 1) & real
    regions = _regions(boxes, strides, offset, (ignore_ratio, center_ratio))
    last, target = zip(
        *(_decisive(*x) for x in zip(own, beside, regions.unbind(1), sizes, strict=True)),
        strict=True,
    )
    last, target = torch.cat(last, dim=1)[back], torch.cat(target, dim=1)[back]
    counts = (last > 1) & (last % 2 == 0)
    return target.float(), counts.float().masked_fill_(last == 0, BACKGROUND_WEIGHT)


def _regions(
    boxes: Tensor, strides: Sequence[int], offset: float, ratios: Sequence[float]
) -> Tensor:
    """(ratios, L, N, M, 4) the first and the last cells (x0, y0, x1, y1) of the regions in the
    middle of boxes (N, M, 4).

    A region has both its ends, so that it is never empty inside the map.
    """
    strides = torch.tensor(strides, device=boxes.device)[:, None, None, None]
    low, high = (boxes / strides - offset).split(2, dim=-1)
    border = (1 - torch.tensor(ratios, device=boxes.device).view(-1, 1, 1, 1, 1)) / 2
    start, end = (1 - border) * low + border * high, border * low + (1 - border) * high
    return torch.cat([start, end], dim=-1).round().clamp(min=0)


def _decisive(
    own: Tensor, beside: Tensor, regions: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """What decides about the cells of a level.

    Args:
        own, beside (Tensor): (N, M) bool, whether an object belongs to the level, or to one next to
            it.
        regions (Tensor): (2, N, M, 4) the ignore and the centre region of each object, in cells.
        size (tuple[int, int]): H, W.

    Returns:
        Tensor: (N, H*W) int32, the greatest number of these: 1 in the ignore region of an object
        beside, 2 i + 3 in that of the level's own object i, 2 i + 4 in its centre region; else 0.
        Tensor: (N, H*W) bool, whether the cell is in a centre region.
    """
    number = 2 * torch.arange(own.shape[1], dtype=torch.int32, device=own.device) + 3
    code = torch.where(own, number, beside.to(torch.int32))[..., None]
    own = own[..., None]
    axes = []
    for axis, cells in ((1, size[0]), (0, size[1])):
        index = torch.arange(cells, device=own.device)
        inside = (index >= regions[..., axis, None]) & (index <= regions[..., axis + 2, None])
        center = inside[1] & own
        axes.append((code * inside[0] + center, center))  # (N, M, H) or (N, M, W)
    (rows, center_rows), (columns, center_columns) = axes

    last = torch.zeros((len(own), *size), dtype=torch.int32, device=own.device)
    target = torch.zeros_like(last, dtype=torch.bool)
    for chunk in chunks(own.shape[1], last.numel(), own.device):
        # A cell has the lesser of what its row and its column have.
        codes = torch.minimum(rows[:, chunk, :, None], columns[:, chunk, None])
        last = torch.maximum(last, codes.amax(dim=1))
        target |= (center_rows[:, chunk, :, None] & center_columns[:, chunk, None]).any(dim=1)
    return last.flatten(1), target.flatten(1)


def object_levels(gt_boxes: Tensor, sides: Sequence[float], by_short_side: bool = False) -> Tensor:
    """The level of each object: the one whose squares come closest to its size.

    Args:
        gt_boxes (Tensor): (..., 4) in pixels.
        sides (sequence of float): L sides of the squares in pixels, ascending.
        by_short_side (bool): whether an object's size is its shorter side. False: the square root
            of its area.

    Returns:
        Tensor: (...) int64 in [0, L).
    """
    width, height = (gt_boxes[..., 2:] - gt_boxes[..., :2]).unbind(-1)
    sides = torch.as_tensor(sides, dtype=torch.float32, device=gt_boxes.device).log2()
    borders = (sides[1:] + sides[:-1]) / 2
    size = torch.minimum(width, height) if by_short_side else (width * height).sqrt()
    return torch.bucketize(size.log2(), borders, right=True)
