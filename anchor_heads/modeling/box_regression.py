"""Box regression where it differs from Detectron2's."""

import torch
from detectron2.layers import ciou_loss, diou_loss
from detectron2.modeling.box_regression import Box2BoxTransform
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor

from anchor_heads.layers import iou_loss

# Each gives one value per box.
BOX_LOSSES = {"iou": iou_loss, "giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}


def check_box_loss(loss_type: str) -> None:
    """
    Raises:
        ValueError: if :func:`box_regression_loss` has no such loss.
    """
    known = ("smooth_l1", *BOX_LOSSES)
    if loss_type not in known:
        raise ValueError(f"BBOX_REG_LOSS_TYPE is {loss_type!r}; choose one of {', '.join(known)}.")


class BoundedBox2BoxTransform(Box2BoxTransform):
    """Detectron2's transform, which bounds how much a box may grow, with the same bound on how much
    it may shrink, as mmdetection has: by a factor of ``exp(scale_clamp)`` = 62.5."""

    @classmethod
    def of(cls, transform: Box2BoxTransform) -> "BoundedBox2BoxTransform":
        """The transform with the same weights and the same bound on growth."""
        return cls(transform.weights, transform.scale_clamp)

    def apply_deltas(self, deltas: Tensor, boxes: Tensor) -> Tensor:
        """See :meth:`Box2BoxTransform.apply_deltas`."""
        shape = deltas.shape
        deltas = deltas.reshape(-1, 4)
        # Not one comparison with a tensor of both bounds, which a GPU would have to wait for.
        width, height = (
            deltas[:, i : i + 1].clamp(min=-self.scale_clamp * self.weights[i]) for i in (2, 3)
        )
        deltas = torch.cat([deltas[:, :2], width, height], dim=1)
        return super().apply_deltas(deltas.view(shape), boxes)


def box_regression_loss(
    transform: Box2BoxTransform,
    anchors: Tensor,
    deltas: Tensor,
    gt_boxes: Tensor,
    loss_type: str,
    smooth_l1_beta: float,
) -> Tensor:
    """The box loss of Detectron2's dense detectors, of anchors that are all positive.

    Args:
        transform (Box2BoxTransform): between anchors and boxes.
        anchors (Tensor): (n, 4), n may be 0.
        deltas (Tensor): (n, 4) predictions.
        gt_boxes (Tensor): (n, 4).
        loss_type (str): "smooth_l1", "iou" (the negative logarithm), "giou", "diou" or "ciou".
        smooth_l1_beta (float): where "smooth_l1" becomes linear; 0 for L1.

    Returns:
        Tensor: scalar, the sum over the anchors.
    """
    if loss_type == "smooth_l1":
        targets = transform.get_deltas(anchors, gt_boxes)
        return smooth_l1_loss(deltas, targets, smooth_l1_beta, reduction="sum")
    return BOX_LOSSES[loss_type](transform.apply_deltas(deltas, anchors), gt_boxes).sum()
