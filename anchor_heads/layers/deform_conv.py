"""Deformable convolution on every device, of a whole feature map or at chosen locations only.

On the CPU, Detectron2's supports neither gradients nor several offset groups; torchvision's
supports both, but takes several times as long as a plain convolution. Here the sampling is one
weighted ``embedding_bag``, whose kernels are fast on the CPU; a whole map on a GPU, or in a model
that is being exported, is left to torchvision.

Shape shorthand in this module:

    N, C, H, W: images, channels, height and width of a feature map
    G: number of offset groups; a group moves C / G consecutive channels
    T: number of taps of the kernel, numbered by rows
    n: number of chosen locations; a location is an index into the flattened (N, H, W)
"""

import math

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from .exporting import is_exporting
from .sparse_conv import CHUNK_LOCATIONS, linear, rows


def deform_conv2d(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """Deformable convolution with stride 1 that keeps the size of the map.

    With ``mask`` it is the modulated one (DCNv2). Half precision is computed in float32, also under
    autocast. On the CPU the output is NaN where an offset is not finite.

    Args:
        x (Tensor): (N, C, H, W).
        offset (Tensor): (N, G*T*2, H, W), for each group and tap (dy, dx) in cells.
        weight (Tensor): (C', C, kernel height, kernel width), both odd.
        bias (Tensor or None): (C',).
        mask (Tensor or None): (N, G*T, H, W), factors of the taps.

    Returns:
        Tensor: (N, C', H, W), of the type of ``weight``.
    """
    if x.is_cuda or is_exporting():
        dtype = weight.dtype
        padding = [size // 2 for size in weight.shape[2:]]
        x, offset, weight, bias, mask = _full_precision(x, offset, weight, bias, mask)
        with torch.autocast(x.device.type, enabled=False):
            out = torchvision.ops.deform_conv2d(x, offset, weight, bias, padding=padding, mask=mask)
        return out.to(dtype)
    n, _, height, width = x.shape
    out = deform_conv2d_at(
        x,
        rows(offset),
        weight,
        torch.arange(n * height * width, device=x.device),
        bias,
        None if mask is None else rows(mask),
    )
    return out.view(n, height, width, len(weight)).permute(0, 3, 1, 2).contiguous()


@torch.compiler.disable  # its kernels are faster than those of a compiled sampling
def deform_conv2d_at(
    x: Tensor,
    offset: Tensor,
    weight: Tensor,
    locations: Tensor,
    bias: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """:func:`deform_conv2d` at chosen locations only.

    Args:
        x (Tensor): (N, C, H, W).
        offset (Tensor): (n, G*T*2).
        weight (Tensor): (C', C, kernel height, kernel width), both odd.
        locations (Tensor): (n,) int64.
        bias (Tensor or None): (C',).
        mask (Tensor or None): (n, G*T).

    Returns:
        Tensor: (n, C'), of the type of ``weight``.
    """
    dtype = weight.dtype
    with torch.autocast(x.device.type, enabled=False):
        x, offset, weight, bias, mask = _full_precision(x, offset, weight, bias, mask)
        kernel = weight.shape[2:]
        groups = offset.shape[1] // (2 * math.prod(kernel))
        # A row per cell and group, so that a sample is a weighted sum of four rows. Rows that lie
        # scattered in memory would be gathered anew for each part below.
        table = rows(x).reshape(-1, x.shape[1] // groups).contiguous()
        matrix = weight.permute(0, 2, 3, 1).flatten(1)
        out = []
        for start in range(0, max(len(locations), 1), CHUNK_LOCATIONS):
            part = slice(start, start + CHUNK_LOCATIONS)
            corners, weights = _corners(offset[part], locations[part], x.shape[2:], kernel, groups)
            if mask is not None:
                weights = weights * mask[part].view(-1, groups, kernel.numel(), 1).transpose(1, 2)
            samples = _weighted_rows(table, corners.flatten(0, 2), weights.flatten(0, 2))
            out.append(linear(samples.view(len(corners), matrix.shape[1]), matrix, bias))
        return torch.cat(out).to(dtype)


def _corners(offset, locations, size, kernel, groups) -> tuple[Tensor, Tensor]:
    """The four cells around each sampled point, and their bilinear weights.

    Returns:
        Tensor: (n, T, G, 4) int32, rows of the table.
        Tensor: (n, T, G, 4) weights; 0 for cells outside the map.
    """
    height, width = size
    locations = locations.int()
    cell = locations % (height * width)
    tap = torch.arange(kernel.numel(), dtype=torch.int32, device=offset.device)
    offset = offset.view(len(locations), groups, len(tap), 2).transpose(1, 2)
    dy, dx = offset.unbind(3)  # (n, T, G)
    y = dy + ((cell // width)[:, None] + tap // kernel[1] - kernel[0] // 2)[..., None]
    x = dx + ((cell % width)[:, None] + tap % kernel[1] - kernel[1] // 2)[..., None]
    top, left = y.floor(), x.floor()
    ys, y_weights = _pair(top, y - top, height)
    xs, x_weights = _pair(left, x - left, width)
    image = (locations // (height * width))[:, None, None]
    cells = (image[..., None, None] * height + ys[..., :, None]) * width + xs[..., None, :]
    group = torch.arange(groups, dtype=torch.int32, device=offset.device)
    weights = y_weights[..., :, None] * x_weights[..., None, :]
    return (cells * groups + group[:, None, None]).flatten(3), weights.flatten(3)


def _pair(first: Tensor, fraction: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Along one axis: the two cells around a point and their weights, both (n, T, G, 2)."""
    index = torch.stack([first, first + 1], dim=-1)
    weights = torch.stack([1 - fraction, fraction], dim=-1)
    inside = (index >= 0) & (index < size)
    # Clamped as integers: a cell that is not a number is a valid index too, and its weight is NaN.
    return index.int().clamp(0, size - 1), weights * inside


def _weighted_rows(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """(B, C) sums of four weighted rows each: of the table (R, C), by (B, 4) index and weights."""
    sums = F.embedding_bag(index, table.detach(), per_sample_weights=weights, mode="sum")
    return _TableGradient.apply(sums, table, index, weights.detach())


class _TableGradient(Function):
    """Adds the table's gradient to :func:`_weighted_rows`.

    It is a weighted sum of rows too, of the gradient of the sums: computed so, and not by
    ``embedding_bag`` itself, it takes a third of the time on a CPU.
    """

    @staticmethod
    def forward(ctx, sums: Tensor, table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
        ctx.rows = len(table)
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(index, weights)
        return sums.view_as(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        table_gradient = None
        if ctx.needs_input_grad[1]:
            index, weights = ctx.saved_tensors
            index, order = index.flatten().sort()
            count = index.bincount(minlength=ctx.rows)
            table_gradient = F.embedding_bag(
                order // 4,  # the sum that each entry belongs to
                gradient.contiguous(),
                offsets=count.cumsum(0) - count,
                per_sample_weights=weights.flatten()[order],
                mode="sum",
            )
        return gradient, table_gradient, None, None


def _full_precision(*tensors: Tensor | None) -> list[Tensor | None]:
    half = (torch.float16, torch.bfloat16)
    return [x.float() if x is not None and x.dtype in half else x for x in tensors]


class DeformConv(nn.Module):
    """A deformable convolution whose offsets (and mask) are given by the caller.

    Its parameters are ``weight`` and, optionally, ``bias``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 3, bias: bool = False
    ):
        """
        Args:
            in_channels (int): C.
            out_channels (int): C'.
            kernel_size (int): odd.
            bias (bool): whether to add a bias, 0 at first.

        Raises:
            ValueError: if the kernel size is even.
        """
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size is {kernel_size}; it must be odd to keep the map's size."
            )
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # as torch's convolutions

    def forward(self, x: Tensor, offset: Tensor, mask: Tensor | None = None) -> Tensor:
        """See :func:`deform_conv2d`."""
        return deform_conv2d(x, offset, self.weight, self.bias, mask)

    def forward_sparse(
        self, x: Tensor, offset: Tensor, locations: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """See :func:`deform_conv2d_at`."""
        return deform_conv2d_at(x, offset, self.weight, locations, self.bias, mask)


class ModulatedDeformConvPack(DeformConv):
    """A deformable convolution that predicts its own offsets and mask (DCNv2).

    Its parameters are ``weight``, ``bias`` and those of ``conv_offset``, whose channels are the
    (dy, dx) of each tap and then the logits of the mask. It starts with no offsets and masks of
    one half.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3):
        """
        Args:
            in_channels (int): C.
            out_channels (int): C'.
            kernel_size (int): odd.

        Raises:
            ValueError: if the kernel size is even.
        """
        super().__init__(in_channels, out_channels, kernel_size, bias=True)
        self.taps = kernel_size**2
        self.conv_offset = nn.Conv2d(
            in_channels, 3 * self.taps, kernel_size, padding=kernel_size // 2
        )
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        offset, mask = self.conv_offset(x).split([2 * self.taps, self.taps], dim=1)
        return super().forward(x, offset, mask.sigmoid())
