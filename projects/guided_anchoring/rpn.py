from detectron2.config import configurable
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY

from anchor_heads.anchor_generation.strategy import get_anchor_strategy
from anchor_heads.modeling.proposal_generator import PredictedAnchorRPN

from .strategy import GuidedAnchoring, GuidedAnchorStrategy


@PROPOSAL_GENERATOR_REGISTRY.register()
class GuidedAnchorRPN(PredictedAnchorRPN):
    """GA-RPN: a region proposal network with guided anchors (Guided Anchoring, CVPR 2019).

    At test time there are proposals only where the location probability is high enough; an image
    without any such location has none. For training ROI heads all locations compete, as published.
    """

    HEAD_NAME = "GuidedAnchorRPNHead"

    @configurable
    def __init__(self, *, guided_anchoring: GuidedAnchoring, **kwargs):
        """
        Args:
            guided_anchoring (GuidedAnchoring): anchors, and the losses of location and shape.
            kwargs: see :class:`RPN`. ``anchor_matcher`` is one of :func:`MaxIoUMatcher`.
        """
        super().__init__(**kwargs)
        self.guided_anchoring = guided_anchoring

    @classmethod
    def from_config(cls, cfg, input_shape):
        node = cfg.MODEL.GUIDED_ANCHOR.RPN
        ret = super().from_config(cfg, input_shape, node.MIN_IOU)
        return {**ret, "guided_anchoring": GuidedAnchoring(cfg, node, ret["anchor_generator"])}

    def forward_training(self, images, features, predictions, gt_instances):
        """See :meth:`PredictedAnchorRPN.forward_training`.

        Returns:
            list[Instances]: the proposals.
            dict[str, Tensor]: the scalars "loss_anchor_location", "loss_anchor_shape",
            "loss_rpn_cls" and "loss_rpn_loc".
        """
        anchoring = self.guided_anchoring
        valid = anchoring.square_generator.valid_mask(features, images.image_sizes)
        losses = anchoring.losses(predictions, gt_instances, valid)
        levels = [
            (anchors, *self.rpn_head.predict(prediction))
            for anchors, prediction in zip(anchoring.anchors(predictions), predictions, strict=True)
        ]
        proposals, rpn_losses = self.train_on(levels, gt_instances, valid, images.image_sizes)
        return proposals, losses | rpn_losses

    def forward_inference(self, images, features, predictions):
        """See :meth:`PredictedAnchorRPN.forward_inference`."""
        outputs = self.guided_anchoring.predict_at_kept_locations(self.rpn_head, predictions)
        return [
            self.propose(levels, size)
            for levels, size in zip(outputs, images.image_sizes, strict=True)
        ]


get_anchor_strategy.register(GuidedAnchorRPN, GuidedAnchorStrategy)
