"""Augmentations of a single image that Detectron2 does not have."""

import numpy as np
import torch
from detectron2.data import transforms as T
from torchvision.transforms import v2


class ColorJitter(T.Augmentation):
    """Random brightness, contrast, saturation and hue, in random order: torchvision's ColorJitter.

    It draws from torch's random numbers.
    """

    def __init__(self, strengths: tuple[float, float, float, float], format: str):
        """
        Args:
            strengths (tuple): of brightness, contrast, saturation (factors from 1 - strength to
                1 + strength) and hue (shifted by up to strength, at most 0.5).
            format (str): "BGR" or "RGB", of the images.
        """
        super().__init__()
        self._init({"strengths": strengths, "format": format})
        self._jitter = v2.ColorJitter(*strengths)

    def get_transform(self, image: np.ndarray) -> T.Transform:
        params = self._jitter.make_params([])
        return T.ColorTransform(lambda image: self._apply(image, params))

    def _apply(self, image, params):
        step = -1 if self.format == "BGR" else 1
        rgb = torch.from_numpy(np.ascontiguousarray(image[:, :, ::step].transpose(2, 0, 1)))
        jittered = self._jitter.transform(rgb, params).numpy().transpose(1, 2, 0)
        return np.ascontiguousarray(jittered[:, :, ::step])
