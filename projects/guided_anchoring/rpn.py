from detectron2.config import configurable
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY

from anchor_heads.modeling.proposal_generator import PredictedAnchorRPN

from .anchoring import GuidedAnchoring
from .inspection import inspect_guided_anchors


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
            kwargs: see :class:`RPN`. ``anchor_matcher`` is one of :func:`build_max_iou_matcher`.
        """
        super().__init__(**kwargs)
        self.guided_anchoring = guided_anchoring

    @classmethod
    def from_config(cls, cfg, input_shape):
        node = cfg.MODEL.GUIDED_ANCHOR.RPN
        ret = super().from_config(cfg, input_shape, node.MIN_IOU)
        return {**ret, "guided_anchoring": GuidedAnchoring(cfg, node, ret["anchor_generator"])}

    def forward(self, images, features, gt_instances=None):
        """Same interface as :meth:`RPN.forward`.

        Returns:
            list[Instances]: with "proposal_boxes" and "objectness_logits".
            dict[str, Tensor]: in training the scalars "loss_anchor_location", "loss_anchor_shape",
            "loss_rpn_cls" and "loss_rpn_loc".
        """
        features = [features[name] for name in self.in_features]
        guides = self.rpn_head(features)
        if self.training:
            assert gt_instances is not None, "GuidedAnchorRPN requires gt_instances in training!"
            return self._train(images, features, guides, gt_instances)
        predictions = self.guided_anchoring.predict_at_kept_locations(self.rpn_head, guides)
        return [
            self.propose(levels, size)
            for levels, size in zip(predictions, images.image_sizes, strict=True)
        ], {}

    def _train(self, images, features, guides, gt_instances):
        anchoring = self.guided_anchoring
        valid = anchoring.square_generator.valid_mask(features, images.image_sizes)
        losses = anchoring.losses(guides, gt_instances, valid)
        levels = [
            (anchors, *self.rpn_head.predict(guide))
            for anchors, guide in zip(anchoring.anchors(guides), guides, strict=True)
        ]
        proposals, rpn_losses = self.train_on(levels, gt_instances, valid, images.image_sizes)
        return proposals, losses | rpn_losses

    def inspect_anchors(self, features, image_size, objects):
        """The best anchors that pass; see :func:`inspect_anchors`."""
        guides = self.rpn_head(features)
        return inspect_guided_anchors(self.guided_anchoring, guides, self.in_features, image_size)

    def rank_anchors(self, features, guides):
        """The anchors that pass, by objectness; see :func:`ranked_anchors`."""
        (levels,) = self.guided_anchoring.predict_at_kept_locations(self.rpn_head, guides)
        return [(anchors, logits[:, 0].sigmoid()) for anchors, logits, _ in levels]
