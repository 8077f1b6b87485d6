import sys

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY

from anchor_heads.anchor_generation import SquareGenerator
from anchor_heads.anchor_generation.strategy import get_anchor_strategy, warn_of_config_problems
from anchor_heads.layers import iou_loss
from anchor_heads.modeling.distributed import loss_normalizer, sum_over_processes
from anchor_heads.modeling.one_stage import (
    PredictedAnchorDetector,
    best_anchors,
    decode_candidates,
)

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
        dynamic_anchoring: DynamicAnchoring | None = None,
        quality_loss_weight: float = 1.0,
        always_box_loss: bool = False,
        thresh_on_product: bool = False,
        **kwargs,
    ):
        """
        Args:
            dynamic_anchoring (DynamicAnchoring or None): anchors and their shape targets; None for
                the published settings.
            quality_loss_weight (float): factor of the loss.
            always_box_loss (bool): False: a batch in which no location has a shape target has no
                box loss, as published.
            thresh_on_product (bool): whether ``test_score_thresh`` is for class probability times
                quality. False: for the class probability, as published.
            kwargs: see :class:`PredictedAnchorDetector`. The squares that anchors start from have
                the smallest sizes of ``anchor_generator``; the box loss arguments have no effect.
        """
        super().__init__(**kwargs)
        self.dynamic_anchoring = dynamic_anchoring or DynamicAnchoring(
            square_generator=SquareGenerator.of(self.anchor_generator)
        )
        self.quality_loss_weight = quality_loss_weight
        self.always_box_loss = always_box_loss
        self.thresh_on_product = thresh_on_product
        warn_of_config_problems(self)

    @classmethod
    def from_config(cls, cfg):
        ret = super().from_config(cfg)
        node = cfg.MODEL.DYNAMIC_ANCHOR.RETINANET
        return {
            **ret,
            "min_iou": node.MIN_IOU,
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
        labels, boxes = self.label_predicted_anchors(anchors, gt_instances, valid)

        _, logits, deltas, quality = (torch.cat(x, dim=1) for x in zip(*predictions, strict=True))
        losses = self.predicted_anchor_losses(anchors, logits, labels, deltas, boxes)
        if not self.always_box_loss:
            total = sum_over_processes(len(assignment.locations), anchors.device)
            losses["loss_box_reg"] = losses["loss_box_reg"] * (total > 0)
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
            Tensor: scalar, the mean over the locations that have a shape target.
        """
        target = assignment.targets.quality
        loss = F.binary_cross_entropy_with_logits(
            pred_quality.flatten()[assignment.locations], target, reduction="sum"
        )
        return self.quality_loss_weight * loss / loss_normalizer(len(target), loss.device)

    def forward_inference(self, images, features, predictions):
        """Same interface as :meth:`RetinaNet.forward_inference`."""
        anchors = self.dynamic_anchoring.anchors(features, predictions)
        levels = [
            (boxes, level.logits.sigmoid(), level.quality.sigmoid(), level.deltas)
            for boxes, level in zip(anchors, predictions, strict=True)
        ]
        return [
            self.detect([[x[i] for x in level] for level in levels], image_size)
            for i, image_size in enumerate(images.image_sizes)
        ]

    def decode_level(self, anchors, classes, quality, deltas, image_size):
        """With the probabilities of the classes, (Ri, K), and the quality, (Ri, 1)."""
        scores = classes * quality
        best = best_anchors(scores, self.test_topk_candidates)
        passing = (scores if self.thresh_on_product else classes) > self.test_score_thresh
        return decode_candidates(
            self.box2box_transform,
            (anchors[best], (scores * passing)[best], deltas[best]),
            0.0,  # those that do not pass
            sys.maxsize,
            image_size,
        )


get_anchor_strategy.register(DynamicAnchorRetinaNet, DynamicAnchorStrategy)
