"""Box regression where it differs from Detectron2's."""

import torch
from detectron2.modeling.box_regression import Box2BoxTransform, _dense_box_regression_loss
from detectron2.structures import Boxes
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


def box_regression_loss(
    transform: Box2BoxTransform,
    anchors: Tensor,
    deltas: Tensor,
    gt_boxes: Tensor,
    loss_type: str,
    smooth_l1_beta: float,
) -> Tensor:
    """Detectron2's box loss of anchors that are all positive, wherever they come from.

    Args:
        transform (Box2BoxTransform): between anchors and boxes.
        anchors (Tensor): (n, 4), n may be 0.
        deltas (Tensor): (n, 4) predictions.
        gt_boxes (Tensor): (n, 4).
        loss_type (str): "smooth_l1", "giou", "diou" or "ciou".
        smooth_l1_beta (float): where "smooth_l1" becomes linear; 0 for L1.

    Returns:
        Tensor: scalar, the sum over the anchors.
    """
    all_of_them = torch.ones(1, len(anchors), dtype=torch.bool, device=anchors.device)
    return _dense_box_regression_loss(
        [Boxes(anchors)],
        transform,
        [deltas[None]],
        [gt_boxes],
        all_of_them,
        loss_type,
        smooth_l1_beta,
    )
