"""What the one-stage detectors have in common."""

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import contextmanager

import torch
from detectron2.config import configurable
from detectron2.layers import batched_nms
from detectron2.modeling import Backbone, build_anchor_generator, build_backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import Boxes, Instances
from fvcore.nn import sigmoid_focal_loss
from torch import Tensor, nn

from anchor_heads.checkpoint.refusal import refuse_other_frameworks
from anchor_heads.layers import is_exporting
from anchor_heads.modeling.box_regression import (
    BoundedBox2BoxTransform,
    box_regression_loss,
    check_box_loss,
)
from anchor_heads.modeling.distributed import loss_normalizer, unwrap
from anchor_heads.modeling.matching import MaxIoUMatcher, match_predicted_anchors, of_matched
from anchor_heads.modeling.preset_shape_checks import check_preset_shapes
from anchor_heads.modeling.statistics import put_best_iou, put_scalars

# Anchors of an object that none overlaps all have the best IoU with it, 0: it must not take them.
DEFAULT_MIN_IOU = 1e-3

# An IoU never exceeds 1, so NMS at this threshold removes nothing.
_NMS_OFF = 2.0


@contextmanager
def candidates_before_nms(model: nn.Module, topk_candidates: int | None = None):
    """Let a dense detector return its candidates instead of its detections.

    Inside the context ``model`` returns all boxes with a score over ``test_score_thresh``, in
    descending order of score: neither NMS nor the limit of detections per image applies. On exit,
    also by an exception, the model is as it was.

    Args:
        model (DenseDetector): whose inference follows the attributes of Detectron2's RetinaNet
            (``test_topk_candidates``, ``test_nms_thresh``, ``max_detections_per_image``), or the
            DistributedDataParallel module around it.
        topk_candidates (int or None): candidates kept per feature level, the best first; None for
            all of them. With predicted anchors, the limit is on anchors, each with all classes.

    Raises:
        TypeError: if the model is no dense detector, as GeneralizedRCNN.
    """
    model = unwrap(model)
    if not isinstance(model, DenseDetector):
        raise TypeError(
            f"{type(model).__name__} has no candidates before NMS to return. Use a one-stage model "
            "(RetinaNet or one built on it)."
        )
    before = model.test_topk_candidates, model.test_nms_thresh, model.max_detections_per_image
    try:
        model.test_topk_candidates = sys.maxsize if topk_candidates is None else topk_candidates
        model.test_nms_thresh = _NMS_OFF
        model.max_detections_per_image = sys.maxsize
        yield
    finally:
        model.test_topk_candidates, model.test_nms_thresh, model.max_detections_per_image = before


def best_anchors(scores: Tensor, topk: int) -> Tensor | slice:
    """Those of (Ri, K) scores that have the highest score in any class: at most ``topk`` indices,
    or all."""
    best, count = scores.amax(dim=1), scores.shape[0]
    if is_exporting():  # the count, a tensor while tracing, differs from image to image
        count = count.clamp(max=topk) if isinstance(count, Tensor) else min(count, topk)
        return best.topk(count).indices
    return best.topk(topk).indices if count > topk else slice(None)


def decode_candidates(
    transform: Box2BoxTransform,
    level: tuple[Tensor, Tensor, Tensor],
    score_thresh: float,
    topk: int,
    image_size: tuple[int, int],
    clip: Callable[[Boxes, tuple[int, int]], None] = Boxes.clip,
) -> Instances:
    """What NMS chooses from on one level of one image.

    Args:
        transform (Box2BoxTransform): from anchors and deltas to boxes.
        level (tuple): anchors (Ri, 4), scores (Ri, K) and deltas (Ri, 4); Ri may be 0.
        score_thresh (float): pairs of anchor and class need a higher score.
        topk (int): maximum number of these pairs, the best first.
        image_size (tuple[int, int]): height and width.
        clip (callable): clips boxes to the image, in place.

    Returns:
        Instances: with "pred_boxes", "scores" and "pred_classes", the best first.
    """
    anchors, scores, deltas = level
    anchor_idxs, classes = (scores > score_thresh).nonzero().unbind(1)
    scores = scores[anchor_idxs, classes]  # by a mask a GPU would search it once more
    size = scores.shape[0]  # a tensor in tracing
    most = size.clamp(max=topk) if isinstance(size, Tensor) else min(size, topk)
    scores, order = scores.topk(most)
    anchor_idxs = anchor_idxs[order]
    boxes = Boxes(transform.apply_deltas(deltas[anchor_idxs], anchors[anchor_idxs]))
    clip(boxes, image_size)
    return Instances(image_size, pred_boxes=boxes, scores=scores, pred_classes=classes[order])


def best_after_nms(levels: list[Instances], nms_thresh: float, topk: int) -> Instances:
    """The best of the candidates of all levels after NMS by class, at most ``topk``, from 1 on."""
    candidates = Instances.cat(levels)
    boxes, scores = candidates.pred_boxes.tensor, candidates.scores
    keep = batched_nms(boxes, scores, candidates.pred_classes, nms_thresh)
    return candidates[keep[:topk]]


class PredictedAnchorDetector(DenseDetector):
    """A one-stage detector that predicts its anchors, so that each image has its own.

    Labels, losses of class and box, and detections like RetinaNet's for such anchors; a method adds
    its other losses, and what it does with the anchors of an image.

    Shape shorthand:

        N: number of images
        R: number of anchors of one image, over all levels
        Ri: number of anchors of one image on level i
        K: number of classes
    """

    # The class of the head that a config has, made of the config and the shapes of the features.
    HEAD: type[nn.Module]

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        head: nn.Module,
        head_in_features: list[str],
        anchor_generator: DefaultAnchorGenerator,
        num_classes: int,
        anchor_matcher: Matcher | None = None,
        min_iou: float = DEFAULT_MIN_IOU,
        box2box_transform: Box2BoxTransform | None = None,
        focal_loss_alpha: float = 0.25,
        focal_loss_gamma: float = 2.0,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        test_score_thresh: float = 0.05,
        test_topk_candidates: int = 1000,
        test_nms_thresh: float = 0.5,
        max_detections_per_image: int = 100,
        pixel_mean: Sequence[float] = (103.53, 116.28, 123.675),
        pixel_std: Sequence[float] = (1.0, 1.0, 1.0),
        vis_period: int = 0,
        input_format: str = "BGR",
    ):
        """
        Args:
            anchor_matcher (Matcher or None): its thresholds and labels are for predicted anchors;
                None for one threshold, 0.5, as published.
            min_iou (float): an object takes the anchors that overlap it most, if their IoU is at
                least this, see :func:`match_max_iou`.
            box2box_transform (Box2BoxTransform or None): its shrinking is bounded as its growth;
                None for weights of 1.
            test_topk_candidates (int): anchors kept per level, with all classes.
            backbone, head, head_in_features, anchor_generator, num_classes, focal_loss_alpha,
                focal_loss_gamma, smooth_l1_beta, box_reg_loss_type, test_score_thresh,
                test_nms_thresh, max_detections_per_image, pixel_mean, pixel_std, vis_period,
                input_format: see :class:`RetinaNet`.

        Raises:
            ValueError: if there is no such ``box_reg_loss_type``.
        """
        check_box_loss(box_reg_loss_type)
        super().__init__(
            backbone, head, head_in_features, pixel_mean=pixel_mean, pixel_std=pixel_std
        )
        self.anchor_generator = anchor_generator
        matcher = anchor_matcher or Matcher([0.5], [0, 1])
        self.anchor_matcher = MaxIoUMatcher.of(matcher, min_iou)
        self.box2box_transform = BoundedBox2BoxTransform.of(
            box2box_transform or Box2BoxTransform((1.0, 1.0, 1.0, 1.0))
        )
        self.num_classes = num_classes
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma
        self.smooth_l1_beta = smooth_l1_beta
        self.box_reg_loss_type = box_reg_loss_type
        self.test_score_thresh = test_score_thresh
        self.test_topk_candidates = test_topk_candidates
        self.test_nms_thresh = test_nms_thresh
        self.max_detections_per_image = max_detections_per_image
        self.vis_period = vis_period
        self.input_format = input_format
        self.register_load_state_dict_pre_hook(refuse_other_frameworks)

    @classmethod
    def from_config(cls, cfg):
        """
        Raises:
            ValueError: if ``MODEL.RETINANET.NUM_CONVS`` is not above 0, or its IoU thresholds and
                labels are not those of :class:`MaxIoUMatcher`.
        """
        check_preset_shapes(cfg)
        node = cfg.MODEL.RETINANET
        if node.NUM_CONVS < 1:
            raise ValueError(f"MODEL.RETINANET.NUM_CONVS is {node.NUM_CONVS}; it must be above 0.")
        # First, because its errors say more than those of Matcher.
        MaxIoUMatcher(node.IOU_THRESHOLDS, node.IOU_LABELS, min_iou=0.0)
        backbone = build_backbone(cfg)
        shapes = [backbone.output_shape()[name] for name in node.IN_FEATURES]
        return {
            "backbone": backbone,
            "head": cls.HEAD(cfg, shapes),
            "head_in_features": node.IN_FEATURES,
            "anchor_generator": build_anchor_generator(cfg, shapes),
            "num_classes": node.NUM_CLASSES,
            "anchor_matcher": Matcher(node.IOU_THRESHOLDS, node.IOU_LABELS),
            "box2box_transform": Box2BoxTransform(node.BBOX_REG_WEIGHTS),
            "focal_loss_alpha": node.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": node.FOCAL_LOSS_GAMMA,
            "smooth_l1_beta": node.SMOOTH_L1_LOSS_BETA,
            "box_reg_loss_type": node.BBOX_REG_LOSS_TYPE,
            "test_score_thresh": node.SCORE_THRESH_TEST,
            "test_topk_candidates": node.TOPK_CANDIDATES_TEST,
            "test_nms_thresh": node.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "vis_period": cfg.VIS_PERIOD,
            "input_format": cfg.INPUT.FORMAT,
        }

    @torch.no_grad()
    def label_predicted_anchors(self, anchors, gt_instances, valid):
        """
        Args:
            anchors (Tensor): (N, R, 4) anchors of each image, over all levels.
            gt_instances (list[Instances]): N of them, with "gt_boxes" and "gt_classes".
            valid (Tensor): (N, R) bool, which anchors may be positive.

        Returns:
            Tensor: (N, R) int64 labels in {-1, 0, ..., K}: -1 = ignored, K = background.
            Tensor: (N, R, 4) boxes, undefined where the label is no class.
        """
        match, boxes = match_predicted_anchors(self.anchor_matcher, gt_instances, anchors, valid)
        put_best_iou(match.best_iou)
        classes = of_matched([gt.gt_classes for gt in gt_instances], match.matched_idxs)
        labels = classes.masked_fill_(match.labels == 0, self.num_classes)
        return labels.masked_fill_(match.labels == -1, -1), boxes

    def predicted_anchor_losses(
        self, anchors, pred_logits, gt_labels, pred_anchor_deltas, gt_boxes
    ):
        """
        Args:
            anchors (Tensor): (N, R, 4).
            pred_logits (Tensor): (N, R, K).
            gt_labels, gt_boxes (Tensor): see :meth:`label_predicted_anchors`.
            pred_anchor_deltas (Tensor): (N, R, 4).

        Returns:
            dict[str, Tensor]: the scalars "loss_cls" and "loss_box_reg", both divided by
            :meth:`loss_count` over all processes.
        """
        positive = (gt_labels >= 0) & (gt_labels < self.num_classes)
        negative = gt_labels == self.num_classes
        num_images = len(positive)
        put_scalars(
            {
                "num_pos_anchors": positive.sum() / num_images,
                "num_neg_anchors": negative.sum() / num_images,
            }
        )
        normalizer = loss_normalizer(self.loss_count(positive), anchors.device)
        chosen = positive.flatten().nonzero()[:, 0]
        loss_box_reg = self.box_loss(
            *(x.flatten(0, 1)[chosen] for x in (anchors, pred_anchor_deltas, gt_boxes))
        )
        return {
            "loss_cls": self.class_loss(pred_logits, gt_labels) / normalizer,
            "loss_box_reg": loss_box_reg / normalizer,
        }

    def loss_count(self, positive: Tensor) -> Tensor:
        """What the losses of this process's images are divided by: the number of positives among
        the (N, R) anchors, an image's counting at least 1. A scalar."""
        return positive.sum(dim=1).clamp(min=1).sum()

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
            gt_labels (Tensor): see :meth:`label_predicted_anchors`.

        Returns:
            Tensor: scalar, the sum over anchors and classes.
        """
        classes = torch.arange(self.num_classes, device=gt_labels.device)
        targets = (gt_labels[..., None] == classes).to(pred_logits.dtype)
        loss = sigmoid_focal_loss(
            pred_logits, targets, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma
        )
        return (loss.sum(dim=-1) * (gt_labels >= 0)).sum()

    def detect(self, levels: Iterable[Sequence[Tensor]], image_size: tuple[int, int]) -> Instances:
        """The detections of one image.

        Args:
            levels (iterable): for each level the tensors that :meth:`decode_level` takes, such as
                anchors (Ri, 4), their scores (Ri, K) and their deltas (Ri, 4). Ri may be 0.
            image_size (tuple[int, int]): height and width.

        Returns:
            Instances: with "pred_boxes", "scores" and "pred_classes", the best first.
        """
        candidates = [self.decode_level(*level, image_size) for level in levels]
        return best_after_nms(candidates, self.test_nms_thresh, self.max_detections_per_image)

    def decode_level(
        self, anchors: Tensor, scores: Tensor, deltas: Tensor, image_size: tuple[int, int]
    ) -> Instances:
        """The pairs of anchor and class of a level with a score above ``test_score_thresh``.

        As published for detectors of this kind, the limit is on anchors and not on these pairs, and
        boxes are clipped before NMS.
        """
        best = best_anchors(scores, self.test_topk_candidates)
        return decode_candidates(
            self.box2box_transform,
            (anchors[best], scores[best], deltas[best]),
            self.test_score_thresh,
            sys.maxsize,
            image_size,
        )
