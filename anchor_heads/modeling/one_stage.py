"""What the one-stage detectors have in common."""

import sys
from collections.abc import Iterable
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from fvcore.nn import sigmoid_focal_loss_jit
from torch import Tensor, nn

from anchor_heads.layers import is_exporting
from anchor_heads.modeling.box_regression import BoundedBox2BoxTransform, box_regression_loss
from anchor_heads.modeling.distributed import loss_normalizer, unwrap
from anchor_heads.modeling.matching import MaxIoUMatcher, match_predicted_anchors

# An IoU never exceeds 1, so NMS at this threshold removes nothing.
_NMS_OFF = 2.0


@contextmanager
def candidates_before_nms(model: nn.Module, topk_candidates: int | None = None):
    """Let a dense detector return its candidates instead of its detections.

    Inside the context ``model`` returns all boxes with a score over ``test_score_thresh``, in
    descending order of score: neither NMS nor the limit of detections per image applies. On exit,
    also by an exception, the model is as it was.

    Args:
        model (nn.Module): a dense detector whose inference follows the attributes of Detectron2's
            RetinaNet (``test_topk_candidates``, ``test_nms_thresh``,
            ``max_detections_per_image``), or the DistributedDataParallel module around it.
        topk_candidates (int or None): candidates kept per feature level, the best first; None for
            all of them. Detectors with predicted anchors keep so many anchors, with all classes.

    Raises:
        TypeError: if the model lacks one of these attributes, as GeneralizedRCNN does.
    """
    model = unwrap(model)
    settings = {
        "test_topk_candidates": sys.maxsize if topk_candidates is None else topk_candidates,
        "test_nms_thresh": _NMS_OFF,
        "max_detections_per_image": sys.maxsize,
    }
    missing = [name for name in settings if not hasattr(model, name)]
    if missing:
        raise TypeError(
            f"{type(model).__name__} has no candidates before NMS to return: it lacks "
            f"{', '.join(missing)}. Use a one-stage model (RetinaNet or one built on it)."
        )
    before = {name: getattr(model, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(model, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(model, name, value)


class PredictedAnchorDetector(RetinaNet):
    """A one-stage detector that predicts its anchors, so that each image has its own.

    Labels, losses of class and box, and detections of RetinaNet for such anchors; a method adds
    its head, its other losses, and what it does with the anchors of an image.

    Shape shorthand:

        N: number of images
        R: number of anchors of one image, over all levels
        Ri: number of anchors of one image on level i
        K: number of classes
    """

    # The class of the head; a head is made from the config and a ShapeSpec per level.
    HEAD: type[nn.Module]

    @classmethod
    def from_config(cls, cfg, min_iou: float):
        """
        Args:
            cfg (CfgNode): the config.
            min_iou (float): see :func:`MaxIoUMatcher`.

        Raises:
            ValueError: if ``MODEL.RETINANET.NUM_CONVS`` is not above 0.
        """
        node = cfg.MODEL.RETINANET
        if node.NUM_CONVS < 1:
            raise ValueError(f"MODEL.RETINANET.NUM_CONVS is {node.NUM_CONVS}; it must be above 0.")
        # First, for its errors say more than those of the matcher that Detectron2 builds.
        matcher = MaxIoUMatcher(node.IOU_THRESHOLDS, node.IOU_LABELS, min_iou)
        ret = super().from_config(cfg)
        shapes = ret["backbone"].output_shape()
        return {
            **ret,
            "head": cls.HEAD(cfg, [shapes[name] for name in node.IN_FEATURES]),
            "anchor_matcher": matcher,
            "box2box_transform": BoundedBox2BoxTransform(node.BBOX_REG_WEIGHTS),
        }

    @torch.no_grad()
    def label_anchors(self, anchors, gt_instances, valid):
        """
        Args:
            anchors (Tensor): (N, R, 4) anchors of each image, over all levels.
            gt_instances (list[Instances]): N of them, with "gt_boxes" and "gt_classes".
            valid (Tensor): (N, R) bool, which anchors may learn.

        Returns:
            Tensor: (N, R) int64 labels in {-1, 0, ..., K}: -1 = ignored, K = background.
            Tensor: (N, R, 4) boxes, undefined where the label is no class.
        """
        match = match_predicted_anchors(self.anchor_matcher, gt_instances, anchors, valid)
        positive = match.labels == 1
        labels = torch.full_like(match.matched_idxs, self.num_classes)
        for gt, labels_i, objects, positive_i in zip(
            gt_instances, labels, match.matched_idxs, positive, strict=True
        ):
            labels_i[positive_i] = gt.gt_classes[objects[positive_i]]
        labels[match.labels == -1] = -1
        return labels, match.boxes

    def losses(self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        """
        Args:
            anchors (Tensor): (N, R, 4).
            pred_logits (Tensor): (N, R, K).
            gt_labels, gt_boxes (Tensor): see :meth:`label_anchors`.
            pred_anchor_deltas (Tensor): (N, R, 4).

        Returns:
            dict[str, Tensor]: the scalars "loss_cls" and "loss_box_reg", both divided by
            :meth:`loss_count` over all processes.
        """
        positive = (gt_labels >= 0) & (gt_labels < self.num_classes)
        storage = get_event_storage()
        for name, kind in (("pos", positive), ("neg", gt_labels == self.num_classes)):
            storage.put_scalar(f"num_{name}_anchors", kind.sum().item() / len(kind))
        normalizer = loss_normalizer(self.loss_count(positive), anchors.device)
        loss_box_reg = self.box_loss(
            anchors[positive], pred_anchor_deltas[positive], gt_boxes[positive]
        )
        return {
            "loss_cls": self.class_loss(pred_logits, gt_labels) / normalizer,
            "loss_box_reg": loss_box_reg / normalizer,
        }

    def loss_count(self, positive: Tensor) -> float:
        """What the losses of this process's images are divided by: the number of positives among
        the (N, R) anchors, an image's counting at least 1."""
        return positive.sum(dim=1).clamp(min=1).sum().item()

    def box_loss(self, anchors: Tensor, deltas: Tensor, gt_boxes: Tensor) -> Tensor:
        """The sum over n positives, of which all arguments are (n, 4)."""
        return box_regression_loss(
            self.box2box_transform,
            anchors,
            deltas,
            gt_boxes,
            self.box_reg_loss_type,
            self.smooth_l1_beta,
        )

    def class_loss(self, pred_logits: Tensor, gt_labels: Tensor) -> Tensor:
        """Focal loss of the anchors that are not ignored.

        Args:
            pred_logits (Tensor): (N, R, K).
            gt_labels (Tensor): see :meth:`label_anchors`.

        Returns:
            Tensor: scalar, the sum over anchors and classes.
        """
        used = gt_labels >= 0
        one_hot = F.one_hot(gt_labels[used], self.num_classes + 1)[:, :-1]
        return sigmoid_focal_loss_jit(
            pred_logits[used],
            one_hot.to(pred_logits.dtype),
            alpha=self.focal_loss_alpha,
            gamma=self.focal_loss_gamma,
            reduction="sum",
        )

    def detect(
        self, levels: Iterable[tuple[Tensor, Tensor, Tensor]], image_size: tuple[int, int]
    ) -> Instances:
        """The detections of one image.

        Args:
            levels (iterable): for each level the anchors (Ri, 4), their scores and their deltas,
                as :meth:`inference_single_image` takes them. Ri may be 0.
            image_size (tuple[int, int]): height and width.

        Returns:
            Instances: with "pred_boxes", "scores" and "pred_classes", the best first.
        """
        anchors, scores, deltas = zip(*levels, strict=True)
        boxes = [Boxes(level) for level in anchors]
        return self.inference_single_image(boxes, scores, deltas, image_size)

    @staticmethod
    def best_anchors(scores: Tensor, topk: int) -> Tensor | slice:
        """Those of (Ri, K) scores that have the highest score in any class: at most ``topk``
        indices, or all."""
        best, count = scores.amax(dim=1), scores.shape[0]
        if is_exporting():  # the count, a tensor while tracing, differs from image to image
            count = count.clamp(max=topk) if isinstance(count, Tensor) else min(count, topk)
            return best.topk(count).indices
        return best.topk(topk).indices if count > topk else slice(None)

    def _decode_per_level_predictions(
        self, anchors, pred_scores, pred_deltas, score_thresh, topk_candidates, image_size
    ):
        """Like RetinaNet's, but the limit is on anchors and not on pairs of anchor and class, and
        boxes are clipped before NMS: both as published for detectors of this kind."""
        best = self.best_anchors(pred_scores, topk_candidates)
        results = super()._decode_per_level_predictions(
            anchors[best],
            pred_scores[best],
            pred_deltas[best],
            score_thresh,
            sys.maxsize,
            image_size,
        )
        results.pred_boxes.clip(image_size)
        return results
