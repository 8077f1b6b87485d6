import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY

from anchor_heads.anchor_generation.strategy import get_anchor_strategy, warn_of_config_problems
from anchor_heads.modeling.matching import MaxIoUMatcher
from anchor_heads.modeling.one_stage import PredictedAnchorDetector

from .head import GuidedAnchorRetinaNetHead
from .strategy import GuidedAnchoring, GuidedAnchorStrategy


@META_ARCH_REGISTRY.register()
class GuidedAnchorRetinaNet(PredictedAnchorDetector):
    """GA-RetinaNet: RetinaNet with guided anchors (Guided Anchoring, CVPR 2019).

    At test time there are detections only where the location probability is high enough; an image
    without any such location has none.
    """

    HEAD = GuidedAnchorRetinaNetHead

    @configurable
    def __init__(
        self,
        *,
        guided_anchoring: GuidedAnchoring | None = None,
        smooth_l1_beta: float = 0.04,
        **kwargs,
    ):
        """
        Args:
            guided_anchoring (GuidedAnchoring or None): anchors, and the losses of location and
                shape; None for the published settings.
            smooth_l1_beta, kwargs: see :class:`PredictedAnchorDetector`. ``anchor_generator``
                generates the shape samples.
        """
        super().__init__(smooth_l1_beta=smooth_l1_beta, **kwargs)
        self.guided_anchoring = guided_anchoring or GuidedAnchoring(
            sample_generator=self.anchor_generator,
            shape_std=1.0,
            shape_matcher=MaxIoUMatcher((0.4, 0.5), labels=(0, -1, 1), min_iou=0.4),
        )
        warn_of_config_problems(self)

    @classmethod
    def from_config(cls, cfg):
        ret = super().from_config(cfg)
        node = cfg.MODEL.GUIDED_ANCHOR.RETINANET
        return {
            **ret,
            "min_iou": node.MIN_IOU,
            "guided_anchoring": GuidedAnchoring(cfg, node, ret["anchor_generator"]),
        }

    def forward_training(self, images, features, predictions, gt_instances):
        """Same interface as :meth:`RetinaNet.forward_training`.

        Returns:
            dict[str, Tensor]: the scalars "loss_anchor_location", "loss_anchor_shape", "loss_cls"
            and "loss_box_reg".
        """
        anchoring = self.guided_anchoring
        valid = anchoring.square_generator.valid_mask(features, images.image_sizes)
        anchors = anchoring.anchors(predictions)
        losses = anchoring.losses(predictions, anchors, gt_instances, valid)
        anchors = torch.cat(anchors, dim=1).detach()
        outputs = zip(*(self.head.predict(prediction) for prediction in predictions), strict=True)
        logits, deltas = (torch.cat(x, dim=1) for x in outputs)
        labels, boxes = self.label_predicted_anchors(anchors, gt_instances, valid)
        return losses | self.predicted_anchor_losses(anchors, logits, labels, deltas, boxes)

    def forward_inference(self, images, features, predictions):
        """Same interface as :meth:`RetinaNet.forward_inference`."""
        outputs = self.guided_anchoring.predict_at_kept_locations(self.head, predictions)
        results = []
        for levels, image_size in zip(outputs, images.image_sizes, strict=True):
            levels = [(anchors, logits.sigmoid(), deltas) for anchors, logits, deltas in levels]
            results.append(self.detect(levels, image_size))
        return results


get_anchor_strategy.register(GuidedAnchorRetinaNet, GuidedAnchorStrategy)
