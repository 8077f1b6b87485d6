from detectron2.config import configurable
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY

from anchor_heads.anchor_generation.strategy import get_anchor_strategy, warn_of_config_problems
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
    def __init__(self, *, guided_anchoring: GuidedAnchoring | None = None, **kwargs):
        """
        Args:
            guided_anchoring (GuidedAnchoring or None): anchors, and the losses of location and
                shape; None for the published settings.
            kwargs: see :class:`PredictedAnchorRPN`. ``anchor_generator`` generates the shape
                samples.
        """
        super().__init__(**kwargs)
        self.guided_anchoring = guided_anchoring or GuidedAnchoring(
            sample_generator=self.anchor_generator
        )
        warn_of_config_problems(self)

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        node = cfg.MODEL.GUIDED_ANCHOR.RPN
        return {
            **ret,
            "min_iou": node.MIN_IOU,
            "guided_anchoring": GuidedAnchoring(cfg, node, ret["anchor_generator"]),
        }

    def forward_training(self, images, features, predictions, gt_instances):
        """See :meth:`PredictedAnchorRPN.forward_training`.

        Returns:
            list[Instances]: the proposals.
            dict[str, Tensor]: the scalars "loss_anchor_location", "loss_anchor_shape",
            "loss_rpn_cls" and "loss_rpn_loc".
        """
        anchoring = self.guided_anchoring
        valid = anchoring.square_generator.valid_mask(features, images.image_sizes)
        anchors = anchoring.anchors(predictions)
        losses = anchoring.losses(predictions, anchors, gt_instances, valid)
        levels = [
            (level.detach(), *self.rpn_head.predict(prediction))
            for level, prediction in zip(anchors, predictions, strict=True)
        ]
        proposals, rpn_losses = self.train_on(levels, gt_instances, valid, images.image_sizes)
        return proposals, losses | rpn_losses

    def forward_inference(self, images, features, predictions):
        """See :meth:`PredictedAnchorRPN.forward_inference`."""
        outputs = self.guided_anchoring.predict_at_kept_locations(self.rpn_head, predictions)
        proposals = []
        for levels, size in zip(outputs, images.image_sizes, strict=True):
            anchors, logits, deltas = zip(*levels, strict=True)
            proposals += self.predict_proposals(
                [x[None] for x in anchors],
                [x[None, :, 0] for x in logits],
                [x[None] for x in deltas],
                [size],
            )
        return proposals


get_anchor_strategy.register(GuidedAnchorRPN, GuidedAnchorStrategy)
