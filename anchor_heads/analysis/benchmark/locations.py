"""Location maps for models that predict where anchors are wanted.

Those of random weights pass everywhere or nowhere: :func:`given_locations` replaces them.
"""

import math
from collections.abc import Sequence
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from anchor_heads.anchor_generation.strategy import get_anchor_strategy

BLOB_CELLS = 9


def blobs(size: tuple[int, int], share: float, seed: int = 0) -> Tensor:
    """A map of wanted cells, in blobs around random centres.

    One centre is drawn per BLOB_CELLS wanted cells, and the cells nearest to any centre are wanted:
    a blob by itself is about a square of 3x3; blobs that meet form larger ones.

    Args:
        size (tuple[int, int]): H, W.
        share (float): in (0, 1]; round(share * H * W) cells are wanted, at least 1.
        seed (int): the same seed gives the same map.

    Returns:
        Tensor: (H, W) bool.
    """
    cells = math.prod(size)
    wanted = max(1, round(share * cells))
    generator = torch.Generator().manual_seed(seed)
    beside = torch.ones(cells, dtype=torch.uint8)
    beside[torch.randperm(cells, generator=generator)[: math.ceil(wanted / BLOB_CELLS)]] = 0
    beside = beside.view(size).numpy()
    distance = cv2.distanceTransform(beside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).ravel()
    chance = torch.rand(cells, generator=generator).numpy()  # among cells of the same distance
    result = torch.zeros(cells, dtype=torch.bool)
    result[np.lexsort([chance, distance])[:wanted]] = True
    return result.view(size)


def mean_blob_cells(maps: Sequence[Tensor]) -> float:
    """Cells per connected part (corners connect) of (H, W) bool maps."""
    parts = sum(cv2.connectedComponents(x.cpu().numpy().astype(np.uint8))[0] - 1 for x in maps)
    return sum(int(x.sum()) for x in maps) / parts


@contextmanager
def given_locations(model: nn.Module, share: float | None):
    """Let a model that predicts where anchors are keep a share of the locations, in blobs.

    Args:
        model (nn.Module): any; one that does not predict locations stays as it is.
        share (float or None): see :func:`blobs`. None: the model stays as it is.

    Yields:
        dict[tuple[int, int], Tensor]: the maps used so far, by size. On exit the model is as it
        was.
    """
    maps = {}

    def mask(size):
        if size not in maps:
            maps[size] = blobs(size, share)
        return maps[size]

    if share is None:
        yield maps
    else:
        with get_anchor_strategy(model).kept_locations(mask):
            yield maps


def predicts_locations(model: nn.Module) -> bool:
    """Whether a model predicts where anchors are."""
    return get_anchor_strategy(model).predicts_locations
