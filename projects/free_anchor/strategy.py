"""FreeAnchor's anchor strategy: every object has a bag of anchors, trained by their likelihood.

Shape shorthand in this module:

    N: number of images in the batch
    M: number of objects in the batch
    R: number of anchors of one image, over all levels
    K: number of classes
    B: number of anchors in a bag
"""

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.structures import Boxes
from detectron2.utils.events import get_event_storage
from fvcore.nn import smooth_l1_loss
from torch import Tensor, nn

from anchor_heads.anchor_generation.dense_anchors import DenseAnchorStrategy
from anchor_heads.anchor_generation.strategy import Assignment, ConfigProblem
from anchor_heads.layers import iou_loss
from anchor_heads.modeling.distributed import loss_normalizer

from .losses import negative_loss, positive_bag_loss
from .targets import anchor_bags, localization_probability

# Of the published box deltas, whose smooth L1 loss becomes linear at 0.11.
BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)

# FreeAnchor has no IoU threshold. An object that no anchor overlaps as much as the first has poor
# candidates only; a level whose anchors overlap it as much as the second offers good ones.
POOR_CANDIDATE_IOU = 0.4
GOOD_CANDIDATE_IOU = 0.5


class FreeAnchorLoss(nn.Module):
    """The detection-customised likelihood as a loss with two terms, for any dense head.

    It is computed in float32 also under mixed precision.
    """

    @configurable
    def __init__(
        self,
        *,
        box2box_transform: Box2BoxTransform,
        smooth_l1_beta: float = 0.11,
        box_reg_loss_type: str = "smooth_l1",
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
            box_reg_loss_type (str): "smooth_l1", as published, or "iou", the negative logarithm of
                the IoU; the localisation likelihood then is the IoU to the power of
                ``box_loss_weight``.
            bag_size, box_iou_thresh, box_loss_weight, alpha, gamma: the keys of
                ``MODEL.FREE_ANCHOR`` of the same names.

        Raises:
            ValueError: if ``bag_size``, ``alpha`` or ``gamma`` is impossible, or there is no such
                ``box_reg_loss_type``.
        """
        super().__init__()
        if box_reg_loss_type not in ("smooth_l1", "iou"):
            raise ValueError(
                f"box_reg_loss_type is {box_reg_loss_type!r}, but FreeAnchor's localisation "
                "likelihood is made of smooth_l1 or of iou. Write smooth_l1 or iou."
            )
        if bag_size < 1:
            raise ValueError(f"bag_size is {bag_size}; it must be 1 or more.")
        if gamma <= 0:
            raise ValueError(f"gamma is {gamma}; it must be above 0.")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is {alpha}; it must be from 0 to 1.")
        self.box2box_transform = box2box_transform
        self.smooth_l1_beta = smooth_l1_beta
        self.box_reg_loss_type = box_reg_loss_type
        self.bag_size = bag_size
        self.box_iou_thresh = box_iou_thresh
        self.box_loss_weight = box_loss_weight
        self.alpha = alpha
        self.gamma = gamma

    @classmethod
    def from_config(
        cls,
        cfg,
        box2box_transform: Box2BoxTransform,
        smooth_l1_beta: float,
        box_reg_loss_type: str,
    ):
        node = cfg.MODEL.FREE_ANCHOR
        return {
            "box2box_transform": box2box_transform,
            "smooth_l1_beta": smooth_l1_beta,
            "box_reg_loss_type": box_reg_loss_type,
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
            _, log_matches = self.log_matches(anchors, logits, deltas, gt_boxes, gt_classes)
            bag_losses = positive_bag_loss(log_matches)
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

    def log_matches(self, anchors, logits, deltas, gt_boxes, gt_classes) -> tuple[Tensor, Tensor]:
        """How well each anchor of each object's bag matches it; arguments as in :meth:`forward`.

        Returns:
            Tensor: (M, B) int64, the bags of the objects of the batch: indices into the R anchors.
            Tensor: (M, B) log of the matching probabilities.
        """
        num_anchors = len(anchors)
        bags = [anchor_bags(boxes, anchors, self.bag_size) for boxes in gt_boxes]
        # Indices into the (N x R) anchors of the batch, (M, B).
        chosen = torch.cat([bag + i * num_anchors for i, bag in enumerate(bags)])
        bags = torch.cat(bags)
        classes = torch.cat(gt_classes)[:, None]
        objects = torch.cat(gt_boxes)[:, None].expand(-1, chosen.shape[1], -1)

        box_loss = self._box_loss(
            anchors[bags].flatten(0, 1),
            deltas.flatten(0, 1)[chosen.flatten()],
            objects.flatten(0, 1),
        ).view(chosen.shape)
        # P(a detects b) = P(class) * P(box)
        log_p_class = F.logsigmoid(logits.flatten(0, 1)[chosen, classes])
        return bags, log_p_class - self.box_loss_weight * box_loss

    def _box_loss(self, anchors, deltas, gt_boxes):
        """The loss of each of n anchors, of which all arguments are (n, 4)."""
        if self.box_reg_loss_type == "iou":
            return iou_loss(self.box2box_transform.apply_deltas(deltas, anchors), gt_boxes)
        targets = self.box2box_transform.get_deltas(anchors, gt_boxes)
        return smooth_l1_loss(deltas, targets, self.smooth_l1_beta, reduction="none").sum(dim=1)

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


class FreeAnchorStrategy(DenseAnchorStrategy):
    """Dense anchors, of which each object has a bag of candidates."""

    consequence = "their bags hold poor candidates only"

    positive_fractions = {}  # nothing is sampled

    def config_problems(self):
        greatest = max(self.owner.box2box_transform.weights)
        if greatest > 1 or self.owner.box_reg_loss_type == "iou":
            return []
        node, beta = "MODEL.RPN", "SMOOTH_L1_BETA"
        if self.one_stage:
            node, beta = "MODEL.RETINANET", "SMOOTH_L1_LOSS_BETA"
        problem = ConfigProblem(
            f"The box deltas have weights of {greatest:g}, where FreeAnchor's are 10 and 5: its "
            "likelihood, exp(-loss), is high even for boxes that are far off.",
            {f"{node}.BBOX_REG_WEIGHTS": BBOX_REG_WEIGHTS, f"{node}.{beta}": 0.11},
        )
        return [problem]

    def _assignments(self, features, predictions, image_size, objects):
        """The anchors of each object's bag, those of the first object first."""
        boxes = Boxes.cat(self.generator(features)).tensor
        classes = objects.gt_classes
        logits, deltas = self._dense_predictions(predictions)
        bags, log_matches = self.owner.free_anchor_loss.log_matches(
            boxes,
            torch.cat(logits, dim=1).float(),
            torch.cat(deltas, dim=1).float(),
            [objects.gt_boxes.tensor],
            [classes if self.one_stage else torch.zeros_like(classes)],  # "object"
        )
        matched_idxs = torch.arange(len(bags), device=bags.device)
        return [
            Assignment(
                rule=f"class and box, by likelihood in bags of {bags.shape[1]}",
                boxes=boxes[bags.flatten()],
                matched_idxs=matched_idxs.repeat_interleave(bags.shape[1]),
                scores=log_matches.flatten().exp(),
                score_name="likelihood",
                num_anchors=len(boxes),
            )
        ]

    def _iou_thresholds(self):
        return POOR_CANDIDATE_IOU, GOOD_CANDIDATE_IOU
