import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY

from anchor_heads.anchor_generation.strategy import get_anchor_strategy
from anchor_heads.layers import iou_loss
from anchor_heads.modeling.distributed import loss_normalizer, sum_over_processes
from anchor_heads.modeling.one_stage import PredictedAnchorDetector

from .head import DynamicAnchorRetinaNetHead
from .strategy import DynamicAnchoring, DynamicAnchorStrategy


@META_ARCH_REGISTRY.register()
class DynamicAnchorRetinaNet(PredictedAnchorDetector):
    """DA-RetinaNet: RetinaNet with one anchor of predicted shape per location.

    A detection's score is class probability times quality. ``MODEL.RETINANET``'s box loss keys
    have no effect: the boxes' loss is the negative logarithm of their IoU.
    """

    HEAD = DynamicAnchorRetinaNetHead

    @configurable
    def __init__(
        self,
        *,
        dynamic_anchoring: DynamicAnchoring,
        quality_loss_weight: float,
        always_box_loss: bool,
        thresh_on_product: bool,
        **kwargs,
    ):
        """
        Args:
            dynamic_anchoring (DynamicAnchoring): anchors, and what their shapes learn.
            quality_loss_weight (float): factor of the loss.
            always_box_loss (bool): False: boxes learn nothing from a batch in which no location
                learns a shape, as published.
            thresh_on_product (bool): whether ``test_score_thresh`` is for class probability times
                quality. False: for the class probability, as published.
            kwargs: see :class:`RetinaNet`. ``anchor_matcher`` is one of
                :func:`MaxIoUMatcher`; the box loss arguments have no effect.
        """
        super().__init__(**kwargs)
        self.dynamic_anchoring = dynamic_anchoring
        self.quality_loss_weight = quality_loss_weight
        self.always_box_loss = always_box_loss
        self.thresh_on_product = thresh_on_product

    @classmethod
    def from_config(cls, cfg):
        node = cfg.MODEL.DYNAMIC_ANCHOR.RETINANET
        ret = super().from_config(cfg, node.MIN_IOU)
        return {
            **ret,
            "dynamic_anchoring": DynamicAnchoring(cfg, ret["anchor_generator"].strides),
            "quality_loss_weight": node.QUALITY_LOSS_WEIGHT,
            "always_box_loss": node.ALWAYS_BOX_LOSS,
            "thresh_on_product": node.THRESH_ON_PRODUCT,
        }

    def forward_training(self, images, features, predictions, gt_instances):
        """Same interface as :meth:`RetinaNet.forward_training`.

        Returns:
            dict[str, Tensor]: the scalars "loss_cls", "loss_box_reg", "loss_anchor_shape" and
            "loss_anchor_quality".
        """
        anchoring = self.dynamic_anchoring
        assignment = anchoring.shape_assignment(features, gt_instances)
        anchors = torch.cat(anchoring.anchors(features, predictions), dim=1)
        valid = anchoring.square_generator.valid_mask(features, images.image_sizes)
        labels, boxes = self.label_anchors(anchors, gt_instances, valid)

        _, logits, deltas, quality = (torch.cat(x, dim=1) for x in zip(*predictions, strict=True))
        losses = self.losses(anchors, logits, labels, deltas, boxes)
        total = sum_over_processes(assignment.mask.sum().item(), anchors.device)
        if total == 0 and not self.always_box_loss:
            losses["loss_box_reg"] = losses["loss_box_reg"] * 0
        return losses | {
            "loss_anchor_shape": anchoring.loss(predictions, assignment),
            "loss_anchor_quality": self.quality_loss(quality[..., 0], assignment),
        }

    def loss_count(self, positive):
        """The number of positives, an image's counting at least 1, plus the number of images."""
        return super().loss_count(positive) + len(positive)

    def box_loss(self, anchors, deltas, gt_boxes):
        """The sum over n positives, of which all arguments are (n, 4); trains the anchors too."""
        boxes = self.box2box_transform.apply_deltas(deltas, anchors)
        return iou_loss(boxes, gt_boxes).sum()

    def quality_loss(self, pred_quality, assignment):
        """Binary cross entropy with the best IoU that an anchor can have with the object.

        Args:
            pred_quality (Tensor): (N, R) logits.
            assignment (ShapeAssignment): see :meth:`DynamicAnchoring.shape_assignment`.

        Returns:
            Tensor: scalar, the mean over the locations that learn a shape.
        """
        target = assignment.targets.quality
        loss = F.binary_cross_entropy_with_logits(
            pred_quality[assignment.mask], target, reduction="sum"
        )
        return self.quality_loss_weight * loss / loss_normalizer(len(target), loss.device)

    def forward_inference(self, images, features, predictions):
        """Same interface as :meth:`RetinaNet.forward_inference`."""
        anchors = self.dynamic_anchoring.anchors(features, predictions)
        levels = [
            (boxes, torch.cat([level.logits, level.quality], dim=2).sigmoid(), level.deltas)
            for boxes, level in zip(anchors, predictions, strict=True)
        ]
        return [
            self.detect([[x[i] for x in level] for level in levels], image_size)
            for i, image_size in enumerate(images.image_sizes)
        ]

    def _decode_per_level_predictions(
        self, anchors, pred_scores, pred_deltas, score_thresh, topk_candidates, image_size
    ):
        """``pred_scores`` are (Ri, K + 1): the probabilities of the classes, and the quality."""
        classes, quality = pred_scores[:, :-1], pred_scores[:, -1:]
        scores = classes * quality
        best = self.best_anchors(scores, topk_candidates)
        passing = (scores if self.thresh_on_product else classes) > score_thresh
        return super()._decode_per_level_predictions(
            anchors[best],
            (scores * passing)[best],
            pred_deltas[best],
            0.0,  # those that do not pass
            topk_candidates,
            image_size,
        )


get_anchor_strategy.register(DynamicAnchorRetinaNet, DynamicAnchorStrategy)
