import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage

from anchor_heads.box_regression import box_regression_loss
from anchor_heads.distributed import loss_normalizer
from anchor_heads.matching import build_max_iou_matcher
from anchor_heads.one_stage import PredictedAnchorDetector

from .anchoring import GuidedAnchoring
from .head import GuidedAnchorRetinaNetHead
from .inspection import inspect_guided_anchors


@META_ARCH_REGISTRY.register()
class GuidedAnchorRetinaNet(PredictedAnchorDetector):
    """GA-RetinaNet: RetinaNet with guided anchors (Guided Anchoring, CVPR 2019).

    At test time there are detections only where the location probability is high enough; an image
    without any such location has none.
    """

    @configurable
    def __init__(self, *, guided_anchoring: GuidedAnchoring, **kwargs):
        """
        Args:
            guided_anchoring (GuidedAnchoring): anchors, and the losses of location and shape.
            kwargs: see :class:`RetinaNet`. ``anchor_matcher`` is one of
                :func:`build_max_iou_matcher`.
        """
        super().__init__(**kwargs)
        self.guided_anchoring = guided_anchoring

    @classmethod
    def from_config(cls, cfg):
        ret = super().from_config(cfg)
        retinanet, node = cfg.MODEL.RETINANET, cfg.MODEL.GUIDED_ANCHOR.RETINANET
        shapes = ret["backbone"].output_shape()
        levels = [shapes[name] for name in retinanet.IN_FEATURES]
        return {
            **ret,
            "head": GuidedAnchorRetinaNetHead(cfg, levels),
            "anchor_matcher": build_max_iou_matcher(
                retinanet.IOU_THRESHOLDS, retinanet.IOU_LABELS, node.MIN_IOU
            ),
            "guided_anchoring": GuidedAnchoring(cfg, node, levels),
        }

    def forward_training(self, images, features, guides, gt_instances):
        """Same interface as :meth:`RetinaNet.forward_training`.

        Returns:
            dict[str, Tensor]: the scalars "loss_anchor_location", "loss_anchor_shape", "loss_cls"
            and "loss_box_reg".
        """
        valid = self.guided_anchoring.valid_cells(guides, images.image_sizes)
        losses = self.guided_anchoring.losses(guides, gt_instances, valid)
        anchors = torch.cat(self.guided_anchoring.anchors(guides), dim=1)
        predictions = zip(*(self.head.predict(guide) for guide in guides), strict=True)
        logits, deltas = (torch.cat(x, dim=1) for x in predictions)
        labels, boxes, best_iou = self.label_anchors(anchors, gt_instances, valid)
        if len(best_iou):
            get_event_storage().put_scalar("guided_anchor/best_iou", best_iou.mean().item())
        return losses | self.losses(anchors, logits, labels, deltas, boxes)

    def losses(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        """
        Args:
            anchors (Tensor): (N, R, 4).
            pred_logits (Tensor): (N, R, K).
            gt_labels, gt_boxes (Tensor): see :meth:`label_anchors`.
            pred_anchor_deltas (Tensor): (N, R, 4).

        Returns:
            dict[str, Tensor]: the scalars "loss_cls" and "loss_box_reg", both divided by the number
            of positives, at least 1 per image.
        """
        positive = (gt_labels >= 0) & (gt_labels < self.num_classes)
        counts = positive.sum(dim=1)
        storage = get_event_storage()
        for name, kind in (("pos", positive), ("neg", gt_labels == self.num_classes)):
            storage.put_scalar(f"num_{name}_anchors", kind.sum().item() / len(kind))
        normalizer = loss_normalizer(counts.clamp(min=1).sum().item(), anchors.device)

        loss_cls = self.class_loss(pred_logits, gt_labels)
        loss_box_reg = box_regression_loss(
            self.box2box_transform,
            anchors[positive],
            pred_anchor_deltas[positive],
            gt_boxes[positive],
            self.box_reg_loss_type,
            self.smooth_l1_beta,
        )
        return {"loss_cls": loss_cls / normalizer, "loss_box_reg": loss_box_reg / normalizer}

    def forward_inference(self, images, features, guides):
        """Same interface as :meth:`RetinaNet.forward_inference`."""
        predictions = self.guided_anchoring.predict_where_wanted(self.head, guides)
        results = []
        for levels, image_size in zip(predictions, images.image_sizes, strict=True):
            levels = [(anchors, logits.sigmoid(), deltas) for anchors, logits, deltas in levels]
            results.append(self.detect(levels, image_size))
        return results

    def inspect_anchors(self, features, image_size, objects):
        """The best anchors that pass; see :mod:`anchor_heads.anchor_inspection`."""
        guides = self.head(features)
        return inspect_guided_anchors(
            self.guided_anchoring, guides, self.head_in_features, image_size
        )
