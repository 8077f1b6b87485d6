"""Which locations of a batch belong to its images.

Shape shorthand in this module:

    N: number of images
    L: number of feature levels
    H, W: height and width of a level, in cells
    R: number of cells of one image over all levels, each level by rows
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# Published training pads each image to multiples of this, and lets only cells in it learn.
PADDING_MULTIPLE = 32


def cells_in_images(
    image_sizes: Sequence[tuple[int, int]],
    sizes: Sequence[tuple[int, int]],
    strides: Sequence[int],
    device: torch.device,
) -> Tensor:
    """Which cells of a batch lie on an image, padded to multiples of 32 by itself.

    Args:
        image_sizes (sequence): N pairs (height, width) in pixels.
        sizes (sequence): L pairs (H, W).
        strides (sequence of int): L strides in pixels.
        device (torch.device): where the result is wanted.

    Returns:
        Tensor: (N, R) bool.
    """
    batch = []
    for image_size in image_sizes:
        padded = [-(-side // PADDING_MULTIPLE) * PADDING_MULTIPLE for side in image_size]
        inside = []
        for size, stride in zip(sizes, strides, strict=True):
            cells = torch.zeros(size, dtype=torch.bool)
            height, width = (-(-side // stride) for side in padded)
            cells[:height, :width] = True
            inside.append(cells.flatten())
        batch.append(torch.cat(inside))
    return torch.stack(batch).to(device)
