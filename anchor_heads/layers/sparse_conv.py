"""Feature maps as rows, and convolution at chosen locations only.

Shape shorthand in this module:

    N, C, H, W: images, channels, height and width of a feature map
    n: number of chosen locations; a location is an index into the flattened (N, H, W)
    m: number of locations in the 3x3 neighborhoods of the chosen ones
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Locations handled at a time: their 3x3 patches, 9 x C numbers each, fit into dozens of megabytes.
CHUNK_LOCATIONS = 4096


def rows(x: Tensor) -> Tensor:
    """(N, C, H, W) as (N*H*W, C): a row per location."""
    return x.permute(0, 2, 3, 1).flatten(0, 2)


def flatten_hw(x: Tensor) -> Tensor:
    """(N, C, H, W) as (N, H*W, C)."""
    return x.flatten(2).transpose(1, 2)


def rows_at(x: Tensor, locations: Tensor) -> Tensor:
    """The rows of (N, C, H, W) at (n,) locations, (n, C)."""
    cells = x.shape[2] * x.shape[3]
    return x.flatten(2)[locations // cells, :, locations % cells]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """:func:`torch.nn.functional.linear` of many rows, as a 1x1 convolution where that is faster.

    In float32 on a CPU torch leaves convolutions to oneDNN, whose kernels may take less than half
    the time of the BLAS behind ``linear``.

    Args:
        x (Tensor): (n, C).
        weight (Tensor): (C', C).
        bias (Tensor or None): (C',).

    Returns:
        Tensor: (n, C').
    """
    by_convolution = x.device.type == "cpu" and x.dtype == torch.float32 and len(x) > 0
    if not (by_convolution and torch.backends.mkldnn.is_available()):
        return F.linear(x, weight, bias)
    # Rows are a map with one column, in the memory format "channels last".
    out = F.conv2d(x[None, :, None].permute(0, 3, 1, 2), weight[..., None, None], bias)
    return out.permute(0, 2, 3, 1).reshape(len(x), -1)


def neighborhood_3x3(locations: Tensor, size: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """What a 3x3 convolution at the chosen locations reads.

    Args:
        locations (Tensor): (n,) int64.
        size (tuple[int, int, int]): N, H, W.

    Returns:
        Tensor: (m,) int64, the locations that are read, ascending.
        Tensor: (n, 9) int64, for each chosen location the positions of its neighbours, by rows, in
        the first result; m where a neighbour lies outside the map.
    """
    _, height, width = size
    chosen = torch.zeros(size, device=locations.device).view(-1)
    chosen[locations] = 1
    read = (
        F.max_pool2d(chosen.view(size)[:, None], 3, stride=1, padding=1).flatten().nonzero()[:, 0]
    )

    position = locations.new_full(size, len(read))
    position.view(-1)[read] = torch.arange(len(read), device=read.device)
    position = F.pad(position, (1, 1, 1, 1), value=len(read)).flatten()
    image, cell = locations // (height * width), locations % (height * width)
    row, column = cell // width, cell % width
    corner = (image * (height + 2) + row) * (width + 2) + column  # upper left of the 3x3
    step = torch.arange(3, device=read.device)
    window = (step[:, None] * (width + 2) + step).flatten()
    return read, position[corner[:, None] + window]


def sparse_conv3x3(x: Tensor, neighbours: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A 3x3 convolution with padding 1, at chosen locations.

    Args:
        x (Tensor): (m, C), the rows that are read.
        neighbours (Tensor): (n, 9) positions in them, as :func:`neighborhood_3x3` returns it.
        weight (Tensor): (C', C, 3, 3).
        bias (Tensor): (C',).

    Returns:
        Tensor: (n, C'), what the convolution of the whole map has there.
    """
    x = torch.cat([x, x.new_zeros(1, x.shape[1])])  # the padding, at position m
    matrix = weight.permute(0, 2, 3, 1).flatten(1)
    return torch.cat(
        [linear(x[part].flatten(1), matrix, bias) for part in neighbours.split(CHUNK_LOCATIONS)]
    )
