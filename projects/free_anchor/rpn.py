import logging
import math

import torch
from detectron2.config import configurable
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes
from torch import nn

from anchor_heads.anchor_generation.strategy import get_anchor_strategy

from .strategy import FreeAnchorLoss, FreeAnchorStrategy

logger = logging.getLogger(__name__)


@PROPOSAL_GENERATOR_REGISTRY.register()
class FreeAnchorRPN(RPN):
    """Region proposal network trained by FreeAnchor's likelihood with one class, "object".

    Head and proposals are RPN's; its labels by IoU thresholds, its sampling and its two losses
    are replaced. It works wherever RPN does.
    """

    @configurable
    def __init__(self, *, free_anchor_loss: FreeAnchorLoss, prior_prob: float, **kwargs):
        """
        Args:
            free_anchor_loss (FreeAnchorLoss): the loss.
            prior_prob (float): objectness that training starts from. At 0.5, where RPN starts, the
                negative loss, a sum over all anchors, would drown the positive one.
            kwargs: see :class:`RPN`. The arguments on matching, sampling and box loss have no
                effect.
        """
        super().__init__(**kwargs)
        self.free_anchor_loss = free_anchor_loss
        nn.init.constant_(
            self.rpn_head.objectness_logits.bias, -math.log((1 - prior_prob) / prior_prob)
        )

    @classmethod
    def from_config(cls, cfg, input_shape):
        if cfg.MODEL.FREE_ANCHOR.LEGACY_BOXES:
            raise ValueError(
                "MODEL.FREE_ANCHOR.LEGACY_BOXES is for FreeAnchorRetinaNet: there are no published "
                "weights of a FreeAnchorRPN. Set it to False."
            )
        weights, loss = cfg.MODEL.RPN.BBOX_REG_WEIGHTS, cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE
        if tuple(weights) == (1.0, 1.0, 1.0, 1.0) and loss == "smooth_l1":
            logger.warning(
                "MODEL.RPN.BBOX_REG_WEIGHTS are RPN's (1, 1, 1, 1): to FreeAnchorRPN boxes far off "
                "then look good. Its configs have (10, 10, 5, 5), with MODEL.RPN.SMOOTH_L1_BETA "
                "0.11."
            )
        ret = super().from_config(cfg, input_shape)
        weight = cfg.MODEL.RPN.LOSS_WEIGHT
        return {
            **ret,
            "anchor_matcher": None,
            "free_anchor_loss": FreeAnchorLoss(
                cfg,
                box2box_transform=ret["box2box_transform"],
                smooth_l1_beta=cfg.MODEL.RPN.SMOOTH_L1_BETA,
                box_reg_loss_type=cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE,
            ),
            "prior_prob": cfg.MODEL.FREE_ANCHOR.RPN_PRIOR_PROB,
            "loss_weight": {"loss_rpn_positive": weight, "loss_rpn_negative": weight},
        }

    def label_and_sample_anchors(self, anchors, gt_instances):
        """FreeAnchor's loss labels no anchor beforehand; it wants the objects themselves.

        Returns:
            list[Tensor]: the class, 0, of each object of each image.
            list[Tensor]: the (objects, 4) boxes of each image.
        """
        gt_boxes = [x.gt_boxes.tensor for x in gt_instances]
        gt_classes = [torch.zeros(len(x), dtype=torch.int64, device=x.device) for x in gt_boxes]
        return gt_classes, gt_boxes

    def losses(self, anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        """Same interface as :meth:`RPN.losses`, with the labels of
        :meth:`label_and_sample_anchors`.

        Returns:
            dict[str, Tensor]: the scalars "loss_rpn_positive" and "loss_rpn_negative".
        """
        loss_positive, loss_negative = self.free_anchor_loss(
            Boxes.cat(anchors).tensor,
            torch.cat(pred_objectness_logits, dim=1)[..., None],
            torch.cat(pred_anchor_deltas, dim=1),
            gt_boxes,
            gt_labels,
        )
        losses = {"loss_rpn_positive": loss_positive, "loss_rpn_negative": loss_negative}
        return {name: loss * self.loss_weight[name] for name, loss in losses.items()}


get_anchor_strategy.register(FreeAnchorRPN, FreeAnchorStrategy)
