"""Decoding of boxes where it differs from Detectron2's."""

import torch
from detectron2.modeling.box_regression import Box2BoxTransform
from torch import Tensor


class BoundedBox2BoxTransform(Box2BoxTransform):
    """Detectron2's transform, which bounds how much a box may grow, with the same bound on how much
    it may shrink, as mmdetection has: by a factor of ``exp(scale_clamp)`` = 62.5."""

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """See :meth:`Box2BoxTransform.apply_deltas`."""
        shape = deltas.shape
        deltas = deltas.reshape(-1, 4)
        low = deltas.new_tensor([-self.scale_clamp * weight for weight in self.weights[2:]])
        deltas = torch.cat([deltas[:, :2], torch.maximum(deltas[:, 2:], low)], dim=1)
        return super().apply_deltas(deltas.view(shape), boxes)
