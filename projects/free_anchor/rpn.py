import torch
from detectron2.config import configurable
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.structures import Boxes

from anchor_heads.anchor_generation.strategy import get_anchor_strategy, warn_of_config_problems
from anchor_heads.checkpoint.refusal import refuse_other_frameworks
from anchor_heads.layers import init_prior_bias
from anchor_heads.modeling.preset_shape_checks import check_preset_shapes
from anchor_heads.modeling.proposal_generator import weights_by_loss

from .strategy import BBOX_REG_WEIGHTS, FreeAnchorLoss, FreeAnchorStrategy

LOSSES = ("loss_rpn_positive", "loss_rpn_negative")


@PROPOSAL_GENERATOR_REGISTRY.register()
class FreeAnchorRPN(RPN):
    """Region proposal network trained by FreeAnchor's likelihood with one class, "object".

    Head and proposals are RPN's; its labels by IoU thresholds, its sampling and its two losses
    are replaced. It works wherever RPN does.
    """

    @configurable
    def __init__(
        self,
        *,
        box2box_transform: Box2BoxTransform | None = None,
        smooth_l1_beta: float = 0.11,
        free_anchor_loss: FreeAnchorLoss | None = None,
        prior_prob: float = 0.02,
        loss_weight: float | dict[str, float] = 1.0,
        anchor_matcher: Matcher | None = None,
        batch_size_per_image: int = 256,
        positive_fraction: float = 0.5,
        pre_nms_topk: tuple[int, int] = (2000, 1000),
        post_nms_topk: tuple[int, int] = (1000, 1000),
        **kwargs,
    ):
        """
        Args:
            box2box_transform (Box2BoxTransform or None): None for the weights of the detector.
            smooth_l1_beta (float): where the box loss turns from quadratic to linear.
            free_anchor_loss (FreeAnchorLoss or None): the loss; None for the settings of the
                detector.
            prior_prob (float): objectness that training starts from, if the head is a
                :class:`StandardRPNHead`; others initialise themselves. At 0.5, where RPN starts,
                the negative loss, a sum over all anchors, would drown the positive one.
            loss_weight (float or dict): factor of both losses, or of "loss_rpn_positive" and
                "loss_rpn_negative".
            pre_nms_topk, post_nms_topk, kwargs: see :class:`RPN`. ``anchor_matcher``,
                ``batch_size_per_image`` and ``positive_fraction`` have no effect.

        Raises:
            ValueError: if there is no such ``box_reg_loss_type``, or ``loss_weight`` is for
                other losses.
        """
        super().__init__(
            box2box_transform=box2box_transform or Box2BoxTransform(BBOX_REG_WEIGHTS),
            smooth_l1_beta=smooth_l1_beta,
            loss_weight=weights_by_loss(loss_weight, LOSSES),
            anchor_matcher=anchor_matcher,
            batch_size_per_image=batch_size_per_image,
            positive_fraction=positive_fraction,
            pre_nms_topk=pre_nms_topk,
            post_nms_topk=post_nms_topk,
            **kwargs,
        )
        self.free_anchor_loss = free_anchor_loss or FreeAnchorLoss(
            box2box_transform=self.box2box_transform,
            smooth_l1_beta=smooth_l1_beta,
            box_reg_loss_type=self.box_reg_loss_type,
        )
        if isinstance(self.rpn_head, StandardRPNHead):
            init_prior_bias(self.rpn_head.objectness_logits, prior_prob)
        self.register_load_state_dict_pre_hook(refuse_other_frameworks)
        warn_of_config_problems(self)

    @classmethod
    def from_config(cls, cfg, input_shape):
        """
        Raises:
            ValueError: if ``MODEL.FREE_ANCHOR.LEGACY_BOXES`` is True, or an anchor size or aspect
                ratio is impossible.
        """
        if cfg.MODEL.FREE_ANCHOR.LEGACY_BOXES:
            raise ValueError(
                "MODEL.FREE_ANCHOR.LEGACY_BOXES is for FreeAnchorRetinaNet: there are no published "
                "weights of a FreeAnchorRPN. Set it to False."
            )
        check_preset_shapes(cfg)
        ret = super().from_config(cfg, input_shape)
        return {
            **ret,
            "free_anchor_loss": FreeAnchorLoss(
                cfg, ret["box2box_transform"], ret["smooth_l1_beta"], ret["box_reg_loss_type"]
            ),
            "prior_prob": cfg.MODEL.FREE_ANCHOR.RPN_PRIOR_PROB,
            "loss_weight": cfg.MODEL.RPN.LOSS_WEIGHT,
        }

    def label_and_sample_anchors(self, anchors, gt_instances):
        """FreeAnchor's loss needs the objects themselves, not labels of anchors.

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
        losses = dict(zip(LOSSES, (loss_positive, loss_negative), strict=True))
        return {name: loss * self.loss_weight[name] for name, loss in losses.items()}


get_anchor_strategy.register(FreeAnchorRPN, FreeAnchorStrategy)
