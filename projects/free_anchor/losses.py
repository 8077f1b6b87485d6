"""The detection-customised likelihood of FreeAnchor (section 3.2 and 3.3) as a loss.

Everything is computed in float32 and in the log domain, so that value and gradient stay finite
and exact where a probability rounds to 0 or 1.

Shape shorthand in this module:

    N: number of images in the batch
    M: number of objects in the batch
    R: number of anchors of one image, over all levels
    K: number of classes
    B: number of anchors in a bag
"""

import math

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.utils.events import get_event_storage
from fvcore.nn import smooth_l1_loss
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from anchor_heads.distributed import loss_normalizer

from .targets import anchor_bags, localization_probability

# The published code bounds 1 - P away from 0 by this much; it keeps log(1 - P) finite.
MIN_MISS_PROBABILITY = 1e-12

# Logits handled at a time on a CPU: the handful of temporaries then stays in the cache. A GPU
# takes all of them at once.
CPU_CHUNK_LOGITS = 2**17


def log1mexp(log_p: Tensor) -> Tensor:
    """log(1 - p) of p = exp(log_p), exact for p near 0 and near 1.

    Args:
        log_p (Tensor): any shape, <= 0. Values above -1e-12 count as -1e-12.
    """
    log_p = log_p.clamp(max=-MIN_MISS_PROBABILITY)
    near_one = log_p > -math.log(2)
    # Each branch sees only arguments that are safe in it: a masked infinity has a NaN gradient.
    return torch.where(
        near_one,
        log_p.clamp(min=-math.log(2)).expm1().neg().log(),
        log_p.clamp(max=-math.log(2)).exp().neg().log1p(),
    )


def positive_bag_loss(log_match: Tensor) -> Tensor:
    """-log of the mean-max of a bag's matching probabilities (equation 5).

    Mean-max weighs each probability P by 1 / (1 - P). Written out, the odds of the result are the
    mean of the odds of all P, which is what is computed here.

    Args:
        log_match (Tensor): (M, B) log of the matching probability of each anchor of each bag.

    Returns:
        Tensor: (M,) losses.
    """
    log_odds = log_match - log1mexp(log_match)
    return F.softplus(math.log(log_match.shape[1]) - log_odds.logsumexp(dim=1))


def _modulated_miss(logits: Tensor, localized: Tensor, gamma: float) -> Tensor:
    """-z^gamma * log(1 - z), z = sigmoid(logits) * (1 - localized), elementwise, localized > 0."""
    log_p = F.logsigmoid(logits)
    log_z = log_p + torch.log1p(-localized)
    log_miss = torch.logaddexp(F.logsigmoid(-logits), log_p + localized.log())
    return -(gamma * log_z).exp() * log_miss


class _NegativeLoss(Function):
    """See :func:`negative_loss`. The gradient is made together with the value, chunk by chunk:
    one pass over the R x K logits, which are almost all of the loss's work."""

    @staticmethod
    def forward(ctx, logits: Tensor, index: Tensor, localized: Tensor, gamma: float) -> Tensor:
        flat = logits.reshape(-1)
        gradient = torch.empty_like(flat) if ctx.needs_input_grad[0] else None
        step = CPU_CHUNK_LOGITS if logits.device.type == "cpu" else max(1, flat.numel())
        total = flat.new_zeros((), dtype=torch.float64)
        for start in range(0, flat.numel(), step):
            chunk = flat[start : start + step]
            p, miss = chunk.sigmoid(), F.softplus(chunk)  # miss = -log(1 - p)
            modulation = p.pow(gamma)
            total += torch.dot(modulation, miss)
            if gradient is not None:
                out = gradient[start : start + step]
                torch.sub(1, p, out=out).mul_(miss).mul_(gamma).add_(p).mul_(modulation)

        # The few pairs that localise an object count less: replace their part.
        some = flat[index]
        total -= torch.dot(some.sigmoid().pow(gamma), F.softplus(some))
        with torch.enable_grad():
            some = some.requires_grad_()
            loss = _modulated_miss(some, localized, gamma).sum()
        total += loss.detach()
        if gradient is not None:
            gradient[index] = torch.autograd.grad(loss, some)[0]
            ctx.save_for_backward(gradient.view_as(logits))
        return total.to(logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor):
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output, None, None, None


def negative_loss(logits: Tensor, index: Tensor, localized: Tensor, gamma: float) -> Tensor:
    """Focal loss that asks every anchor to be background for every class, but for what its box
    localises: sum of z^gamma * -log(1 - z), z = sigmoid(logits) * (1 - P) (equations 4 and 6).

    Args:
        logits (Tensor): float32 of any shape.
        index (Tensor): (P,) int64, unique indices into the flattened logits.
        localized (Tensor): (P,) probability P at ``index``, in (0, 1]. It is 0 elsewhere.
        gamma (float): exponent of the modulation.

    Returns:
        Tensor: scalar.
    """
    return _NegativeLoss.apply(logits, index, localized, gamma)


class FreeAnchorLoss(nn.Module):
    """The two terms of FreeAnchor's loss, for any dense head."""

    @configurable
    def __init__(
        self,
        *,
        box2box_transform: Box2BoxTransform,
        smooth_l1_beta: float,
        bag_size: int = 50,
        box_iou_thresh: float = 0.6,
        box_loss_weight: float = 0.75,
        alpha: float = 0.5,
        gamma: float = 2.0,
    ):
        """
        Args:
            box2box_transform (Box2BoxTransform): anchors and deltas to boxes.
            smooth_l1_beta (float): where the box loss turns from quadratic to linear.
            bag_size, box_iou_thresh, box_loss_weight, alpha, gamma: the keys of
                ``MODEL.FREE_ANCHOR`` of the same names.
        """
        super().__init__()
        if bag_size < 1:
            raise ValueError(f"MODEL.FREE_ANCHOR.BAG_SIZE is {bag_size}; it must be 1 or more.")
        self.box2box_transform = box2box_transform
        self.smooth_l1_beta = smooth_l1_beta
        self.bag_size = bag_size
        self.box_iou_thresh = box_iou_thresh
        self.box_loss_weight = box_loss_weight
        self.alpha = alpha
        self.gamma = gamma

    @classmethod
    def from_config(cls, cfg, *, box2box_transform: Box2BoxTransform, smooth_l1_beta: float):
        node = cfg.MODEL.FREE_ANCHOR
        return {
            "box2box_transform": box2box_transform,
            "smooth_l1_beta": smooth_l1_beta,
            "bag_size": node.BAG_SIZE,
            "box_iou_thresh": node.BOX_IOU_THRESH,
            "box_loss_weight": node.BOX_LOSS_WEIGHT,
            "alpha": node.ALPHA,
            "gamma": node.GAMMA,
        }

    def forward(
        self,
        anchors: Tensor,
        pred_logits: Tensor,
        pred_deltas: Tensor,
        gt_boxes: list[Tensor],
        gt_classes: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """
        Args:
            anchors (Tensor): (R, 4).
            pred_logits (Tensor): (N, R, K).
            pred_deltas (Tensor): (N, R, 4).
            gt_boxes (list[Tensor]): N tensors (objects of the image, 4).
            gt_classes (list[Tensor]): N tensors (objects of the image,) int64 in [0, K).

        Returns:
            Tensor: scalar, the positive loss: every object should have an anchor that fits.
            Tensor: scalar, the negative loss: every other anchor should be background.
        """
        with torch.autocast(pred_logits.device.type, enabled=False):
            logits, deltas = pred_logits.float(), pred_deltas.float()
            bag_losses = self._bag_losses(anchors, logits, deltas, gt_boxes, gt_classes)
            index, localized = self._localized(anchors, logits, deltas, gt_boxes, gt_classes)
            background_loss = negative_loss(logits, index, localized, self.gamma)

        num_objects, device = len(bag_losses), logits.device
        storage = get_event_storage()
        storage.put_scalar("free_anchor/num_objects", num_objects / len(logits))
        storage.put_scalar("free_anchor/num_localized", len(index) / len(logits))
        if num_objects:
            storage.put_scalar("free_anchor/bag_probability", (-bag_losses).exp().mean().item())

        positive = bag_losses.sum() / loss_normalizer(num_objects, device)
        negative = background_loss / loss_normalizer(self.bag_size * num_objects, device)
        return self.alpha * positive, (1 - self.alpha) * negative

    def _bag_losses(self, anchors, logits, deltas, gt_boxes, gt_classes) -> Tensor:
        """(M,) losses of the objects of the batch; arguments as in :meth:`forward`."""
        num_anchors = len(anchors)
        bags = [anchor_bags(boxes, anchors, self.bag_size) for boxes in gt_boxes]
        # Indices into the (N x R) anchors of the batch, (M, B).
        chosen = torch.cat([bag + i * num_anchors for i, bag in enumerate(bags)])
        classes = torch.cat(gt_classes)[:, None]
        objects = torch.cat(gt_boxes)[:, None].expand(-1, chosen.shape[1], -1)

        targets = self.box2box_transform.get_deltas(
            anchors[torch.cat(bags)].flatten(0, 1), objects.flatten(0, 1)
        ).view_as(objects)
        box_loss = smooth_l1_loss(
            deltas.flatten(0, 1)[chosen], targets, self.smooth_l1_beta, reduction="none"
        ).sum(dim=2)
        # P = P(class) * P(box), equation 2.
        log_p_class = F.logsigmoid(logits.flatten(0, 1)[chosen, classes])
        return positive_bag_loss(log_p_class - self.box_loss_weight * box_loss)

    @torch.no_grad()
    def _localized(self, anchors, logits, deltas, gt_boxes, gt_classes) -> tuple[Tensor, Tensor]:
        """:func:`localization_probability` of the whole batch; arguments as in :meth:`forward`."""
        index, probability = [], []
        for i, (boxes, classes) in enumerate(zip(gt_boxes, gt_classes, strict=True)):
            pred_boxes = self.box2box_transform.apply_deltas(deltas[i], anchors)
            where, value = localization_probability(
                boxes, classes, pred_boxes, logits.shape[2], self.box_iou_thresh
            )
            index.append(where + i * logits[i].numel())
            probability.append(value)
        return torch.cat(index), torch.cat(probability)
