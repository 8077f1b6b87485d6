"""Location maps for models that predict where anchors are wanted.

Those of random weights pass everywhere or nowhere: :class:`GivenLocations` replaces them.
"""

import math
from collections.abc import Sequence
from contextlib import contextmanager

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from anchor_heads.modeling.model_parts import anchor_head, anchor_part

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


class GivenLocations(nn.Module):
    """Stands in for a location branch: at every size of map, :func:`blobs` pass.

    The branch is computed as well, for its time.
    """

    def __init__(self, branch: nn.Module, share: float):
        super().__init__()
        self.branch = branch
        self.share = share
        self.maps = {}

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) features to (N, 1, H, W) logits of probabilities close to 0 and 1."""
        logits = self.branch(x)
        size = tuple(x.shape[2:])
        if size not in self.maps:
            self.maps[size] = blobs(size, self.share).to(x.device)
        return (20.0 * self.maps[size] - 10).expand_as(logits)


@contextmanager
def given_locations(model: nn.Module, share: float | None):
    """Let a model that predicts where anchors are wanted want them at a share of the locations.

    Args:
        model (nn.Module): any; one that does not predict locations stays as it is.
        share (float or None): see :func:`blobs`. None: the model stays as it is.

    Yields:
        GivenLocations or None: what stands in for the branch. On exit the model is as it was.
    """
    if share is None or not predicts_locations(model):
        yield None
        return
    head = anchor_head(model)
    branch = head.conv_loc
    head.conv_loc = GivenLocations(branch, share)
    try:
        yield head.conv_loc
    finally:
        head.conv_loc = branch


def predicts_locations(model: nn.Module) -> bool:
    """Whether a model predicts where anchors are wanted."""
    return hasattr(anchor_part(model), "guided_anchoring")
