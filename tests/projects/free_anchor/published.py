"""Arrays that the published code produced, brought to this package's conventions.

The published code counts classes from 1, ends boxes at their last pixel, and orders the anchors
of a location by ratio first; here classes count from 0, boxes end behind their last pixel and
sizes come first.
"""

from pathlib import Path

import numpy as np
import torch

DATA = Path(__file__).parent / "data"
NUM_CLASSES = 5
STRIDES = (8, 16, 32, 64, 128)


class Published:
    def __init__(self, name):
        self.arrays = np.load(DATA / f"{name}.npz")

    def tensor(self, key):
        return torch.from_numpy(self.arrays[key])

    def channels(self, key):
        """(N, 9 x C, H, W) with the anchors of a location reordered."""
        x = self.tensor(key)
        n, _, h, w = x.shape
        return x.view(n, 3, 3, -1, h, w).transpose(1, 2).reshape(x.shape)

    def boxes(self, key):
        return self.tensor(key) + torch.tensor([0.0, 0.0, 1.0, 1.0])

    def classes(self, key):
        return self.tensor(key) - 1
