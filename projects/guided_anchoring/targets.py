"""Location targets. Pure functions on tensors, without gradient. Shape targets are made by
``GuidedAnchoring.match_shapes``.

Shape shorthand in this module:

    N: number of images
    M: number of objects in one image
    L: number of feature levels
    H, W: height and width of a level, in locations
    R: number of locations of one image over all levels, each level by rows
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from anchor_heads.modeling.matching import flat_objects

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

    An object belongs to one level by its size. There its centre region is positive, and the rest of
    its ignore region is ignored; where objects overlap, the last one decides. On the two adjacent
    levels its ignore region is ignored, except where objects of that level decide otherwise.

    Args:
        gt_boxes (sequence of Tensor): for each of N images (M, 4) in pixels, M may be 0.
        sizes (sequence): L pairs (H, W).
        strides (sequence of int): L strides in pixels.
        sides (sequence of float): L sides of the squares in pixels, ascending.
        offset (float): where the first anchor has its centre, in locations.
        center_ratio, ignore_ratio (float): the regions' shares of an object's width and height, the
            second not below the first.
        by_short_side (bool): see :func:`object_levels`.

    Returns:
        Tensor: (N, R) float32, 1 = an object's centre region, 0 = not.
        Tensor: (N, R) float32, weights.
    """
    boxes, image, number = flat_objects(gt_boxes)
    device, num_locations = boxes.device, [height * width for height, width in sizes]
    starts = [sum(num_locations[:level]) for level in range(len(sizes))]
    level, start, stride, height, width = torch.tensor(
        [(*x, *size) for *x, size in zip(range(len(sizes)), starts, strides, sizes, strict=True)],
        device=device,
    ).T.unsqueeze(-1)
    # For each level, (L, M): how far the object's own level is from it.
    distance = (object_levels(boxes, sides, by_short_side) - level).abs()
    own, beside = distance == 0, distance == 1
    # (2, L, M, 2) the first x, y and the number of columns and rows of both regions of objects.
    first, extent = _regions(
        boxes,
        stride[..., None],
        offset,
        torch.tensor([ignore_ratio, center_ratio], device=device).view(-1, 1, 1, 1),
        torch.stack([width, height], dim=-1),
    )
    extent = extent * torch.stack([own | beside, own])[..., None]
    corner = start + image * sum(num_locations) + first[..., 1] * width + first[..., 0]
    # What decides about a location is the greatest number of the regions that it is in: 1 for the
    # ignore region of an object beside, 2 i + 3 for that of the level's own object i, 2 i + 4 for
    # its centre region.
    rank = torch.stack([(2 * number + 3).where(own, 1), (2 * number + 4).expand_as(own)])
    is_center = torch.tensor([0, 1], device=device).view(-1, 1, 1).expand_as(rank)

    locations, region = _locations(
        corner.flatten(), extent.flatten(0, -2), width.expand_as(rank).flatten()
    )
    last, target = (
        torch.zeros(len(gt_boxes) * sum(num_locations), dtype=torch.int64, device=device)
        .scatter_reduce_(0, locations, x.flatten()[region], "amax")
        .view(len(gt_boxes), -1)
        for x in (rank, is_center)
    )
    counts = (last > 1) & (last % 2 == 0)
    return target.float(), counts.float().masked_fill_(last == 0, BACKGROUND_WEIGHT)


def _regions(
    boxes: Tensor, stride: Tensor, offset: float, ratio: Tensor, size: Tensor
) -> tuple[Tensor, Tensor]:
    """The locations of the regions in the middle of boxes.

    A region has both its ends, so that it is never empty inside the map.

    Args:
        boxes (Tensor): (M, 4) in pixels.
        stride (Tensor): (..., 1, 1) pixels from one location to the next.
        ratio (Tensor): (..., 1, 1) the region's share of a box.
        offset (float): where the first anchor has its centre, in locations.
        size (Tensor): (..., 1, 2) columns and rows of the map.

    Returns:
        Tensor: (..., M, 2) int64, column and row of the first location.
        Tensor: (..., M, 2) int64, the number of columns and rows, 0 outside of the map.
    """
    low, high = (boxes / stride - offset).split(2, dim=-1)
    border = (1 - ratio) / 2
    first = ((1 - border) * low + border * high).round().clamp(min=0)
    last = (border * low + (1 - border) * high).round().clamp(min=0)
    return first.long(), (torch.minimum(last, size - 1) - first + 1).clamp(min=0).long()


def _locations(corner: Tensor, extent: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """All locations of rectangles in maps.

    Args:
        corner (Tensor): (n,) int64 index of the first location of each.
        extent (Tensor): (n, 2) int64 number of columns and rows, may be 0.
        width (Tensor): (n,) int64 width of its map.

    Returns:
        Tensor: (c,) int64 indices of locations.
        Tensor: (c,) int64, the rectangle of each, ascending.
    """
    count = extent.prod(dim=-1)
    before = count.cumsum(0) - count
    region = torch.repeat_interleave(count)
    table = torch.stack([corner, before, extent[:, 0], width])
    corner, before, columns, width = table[:, region]
    position = torch.arange(len(region), device=region.device) - before
    row = position // columns
    return corner + row * (width - columns) + position, region


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
