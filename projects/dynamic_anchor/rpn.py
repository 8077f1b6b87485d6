from detectron2.config import configurable
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY

from anchor_heads.anchor_generation import SquareGenerator
from anchor_heads.anchor_generation.strategy import get_anchor_strategy, warn_of_config_problems
from anchor_heads.modeling.proposal_generator import PredictedAnchorRPN

from .strategy import DynamicAnchoring, DynamicAnchorStrategy


@PROPOSAL_GENERATOR_REGISTRY.register()
class DynamicAnchorRPN(PredictedAnchorRPN):
    """DA-RPN: a region proposal network with one anchor of predicted shape per location.

    The published code has its head without the source of its anchors, targets and losses. What of
    it is known is kept: shapes, objectness and boxes come from 1x1 convolutions, the feature
    attention reads RPN's shared convolution, there is no quality branch, anchors are classified
    with binary cross entropy on a sample, and deltas are trained with smooth L1. Defined here:

    - A shape is the exponential of the scaled prediction, as in the detector. The published one is
      the scaled prediction itself, which may be negative.
    - Shapes have the targets and the loss of the detector (the published loss is the
      bounded IoU loss over positives plus images), so that both have one rule.
    - Anchors are matched, sampled and counted as in this package's other predicted anchors, with
      the keys of ``MODEL.RPN``; the deltas' targets do not train the anchors.
    - Objectness alone ranks the proposals.
    """

    HEAD_NAME = "DynamicAnchorRPNHead"

    @configurable
    def __init__(self, *, dynamic_anchoring: DynamicAnchoring | None = None, **kwargs):
        """
        Args:
            dynamic_anchoring (DynamicAnchoring or None): anchors and their shape targets; None for
                 the settings of the detector.
            kwargs: see :class:`PredictedAnchorRPN`. The squares that anchors start from have the
                smallest sizes of ``anchor_generator``.
        """
        super().__init__(**kwargs)
        self.dynamic_anchoring = dynamic_anchoring or DynamicAnchoring(
            square_generator=SquareGenerator.of(self.anchor_generator)
        )
        warn_of_config_problems(self)

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        return {
            **ret,
            "min_iou": cfg.MODEL.DYNAMIC_ANCHOR.RPN.MIN_IOU,
            "dynamic_anchoring": DynamicAnchoring(cfg, ret["anchor_generator"].strides),
        }

    def forward_training(self, images, features, predictions, gt_instances):
        """See :meth:`PredictedAnchorRPN.forward_training`.

        Returns:
            list[Instances]: the proposals.
            dict[str, Tensor]: the scalars "loss_anchor_shape", "loss_rpn_cls" and "loss_rpn_loc".
        """
        anchoring = self.dynamic_anchoring
        assignment = anchoring.shape_assignment(features, gt_instances)
        valid = anchoring.square_generator.valid_mask(features, images.image_sizes)
        levels = self._levels(features, predictions)
        proposals, losses = self.train_on(levels, gt_instances, valid, images.image_sizes)
        losses["loss_anchor_shape"] = anchoring.loss(predictions, assignment)
        return proposals, losses

    def forward_inference(self, images, features, predictions):
        """See :meth:`PredictedAnchorRPN.forward_inference`."""
        anchors, logits, deltas = zip(*self._levels(features, predictions), strict=True)
        logits = [x[..., 0] for x in logits]
        return self.predict_proposals(anchors, logits, deltas, images.image_sizes)

    def _levels(self, features, predictions):
        """Per level the anchors, their logits and their deltas."""
        anchors = self.dynamic_anchoring.anchors(features, predictions)
        return [
            (boxes.detach(), prediction.logits, prediction.deltas)
            for boxes, prediction in zip(anchors, predictions, strict=True)
        ]


get_anchor_strategy.register(DynamicAnchorRPN, DynamicAnchorStrategy)
