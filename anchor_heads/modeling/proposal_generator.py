"""What the proposal generators have in common."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.sampling import subsample_labels
from detectron2.structures import Instances
from torch import Tensor, nn

from anchor_heads.checkpoint.refusal import refuse_other_frameworks
from anchor_heads.modeling.box_regression import (
    BoundedBox2BoxTransform,
    box_regression_loss,
    check_box_loss,
)
from anchor_heads.modeling.distributed import loss_normalizer
from anchor_heads.modeling.matching import MaxIoUMatcher, match_predicted_anchors
from anchor_heads.modeling.preset_shape_checks import check_preset_shapes
from anchor_heads.modeling.statistics import put_best_iou, put_scalars

# One over the published deviations of the deltas, 0.07, 0.07, 0.11 and 0.11.
BBOX_REG_WEIGHTS = (1 / 0.07, 1 / 0.07, 1 / 0.11, 1 / 0.11)


def weights_by_loss(weight: float | dict[str, float], names: Sequence[str]) -> dict[str, float]:
    """The factors of losses, from one for all of them, or those of some.

    Raises:
        ValueError: if there are factors of other losses.
    """
    if not isinstance(weight, dict):
        return dict.fromkeys(names, float(weight))
    if not set(weight) <= set(names):
        raise ValueError(f"loss_weight has {list(weight)}; the losses are {', '.join(names)}.")
    return dict.fromkeys(names, 1.0) | weight


class PredictedAnchorRPN(RPN):
    """A region proposal network that predicts its anchors, so that each image has its own.

    Labels, losses and proposals of RPN for such anchors; a method adds :meth:`forward_training` and
    :meth:`forward_inference`, which hand each level's predictions to :meth:`train_on` and
    :meth:`predict_proposals`.

    Shape shorthand:

        N: number of images
        R: number of anchors of one image, over all levels
        Ri: number of anchors of one image on level i
    """

    # What takes the place of Detectron2's "StandardRPNHead", which knows no predicted anchors.
    HEAD_NAME: str

    @configurable
    def __init__(
        self,
        *,
        in_features: list[str],
        head: nn.Module,
        anchor_generator: DefaultAnchorGenerator,
        anchor_matcher: Matcher | None = None,
        min_iou: float = 0.3,
        box2box_transform: Box2BoxTransform | None = None,
        batch_size_per_image: int = 256,
        positive_fraction: float = 0.5,
        pre_nms_topk: tuple[int, int] = (2000, 1000),
        post_nms_topk: tuple[int, int] = (1000, 1000),
        smooth_l1_beta: float = 1.0,
        loss_weight: float | dict[str, float] = 1.0,
        box_reg_loss_type: str = "smooth_l1",
        **kwargs,
    ):
        """
        Args:
            anchor_matcher (Matcher or None): its thresholds and labels are for predicted anchors;
                None for those of RPN, 0.3 and 0.7.
            min_iou (float): an object takes the anchors that overlap it most, if their IoU is at
                least this, see :func:`match_max_iou`.
            box2box_transform (Box2BoxTransform or None): its shrinking is bounded as its growth;
                None for the published weights.
            loss_weight (float or dict): factor of both losses, or of "loss_rpn_cls" and
                "loss_rpn_loc".
            box_reg_loss_type (str): see :func:`box_regression_loss`.
            in_features, head, anchor_generator, batch_size_per_image, positive_fraction,
                pre_nms_topk, post_nms_topk, smooth_l1_beta, kwargs: see :class:`RPN`.

        Raises:
            ValueError: if anchors that cross the image's border are to be left out, there is no
                such ``box_reg_loss_type``, or ``loss_weight`` is for other losses.
        """
        check_box_loss(box_reg_loss_type)
        super().__init__(
            in_features=in_features,
            head=head,
            anchor_generator=anchor_generator,
            anchor_matcher=MaxIoUMatcher.of(
                anchor_matcher or Matcher([0.3, 0.7], [0, -1, 1]), min_iou
            ),
            box2box_transform=BoundedBox2BoxTransform.of(
                box2box_transform or Box2BoxTransform(BBOX_REG_WEIGHTS)
            ),
            batch_size_per_image=batch_size_per_image,
            positive_fraction=positive_fraction,
            pre_nms_topk=pre_nms_topk,
            post_nms_topk=post_nms_topk,
            smooth_l1_beta=smooth_l1_beta,
            loss_weight=weights_by_loss(loss_weight, ("loss_rpn_cls", "loss_rpn_loc")),
            box_reg_loss_type=box_reg_loss_type,
            **kwargs,
        )
        if self.anchor_boundary_thresh >= 0:
            raise ValueError(
                f"anchor_boundary_thresh is {self.anchor_boundary_thresh}: predicted anchors are "
                "not left out for crossing the image's border. Set it to -1."
            )
        self.register_load_state_dict_pre_hook(refuse_other_frameworks)

    @classmethod
    def from_config(cls, cfg, input_shape):
        """
        Raises:
            ValueError: if IoU thresholds and labels are not those of :class:`MaxIoUMatcher`.
        """
        check_preset_shapes(cfg)
        # First, because its errors say more than those of Matcher.
        MaxIoUMatcher(cfg.MODEL.RPN.IOU_THRESHOLDS, cfg.MODEL.RPN.IOU_LABELS, min_iou=0.0)
        if cfg.MODEL.RPN.HEAD_NAME == "StandardRPNHead":
            cfg = cfg.clone()
            cfg.defrost()
            cfg.MODEL.RPN.HEAD_NAME = cls.HEAD_NAME
        return super().from_config(cfg, input_shape)

    def forward(self, images, features, gt_instances=None):
        """Same interface as :meth:`RPN.forward`.

        Returns:
            list[Instances]: with "proposal_boxes" and "objectness_logits".
            dict[str, Tensor]: in training the losses, see :meth:`forward_training`.
        """
        features = [features[name] for name in self.in_features]
        predictions = self.rpn_head(features)
        if not self.training:
            return self.forward_inference(images, features, predictions), {}
        assert gt_instances is not None, "RPN requires gt_instances in training!"
        return self.forward_training(images, features, predictions, gt_instances)

    def forward_training(self, images, features, predictions, gt_instances):
        """
        Args:
            images (ImageList): N images.
            features (list[Tensor]): (N, C, H, W) per level.
            predictions: what the head returns for them.
            gt_instances (list[Instances]): N of them, with "gt_boxes".

        Returns:
            list[Instances]: N of them, the proposals.
            dict[str, Tensor]: the losses.
        """
        raise NotImplementedError

    def forward_inference(self, images, features, predictions):
        """
        Args:
            images, features, predictions: see :meth:`forward_training`.

        Returns:
            list[Instances]: N of them, the proposals.
        """
        raise NotImplementedError

    def train_on(
        self,
        levels: list[tuple[Tensor, Tensor, Tensor]],
        gt_instances: list[Instances],
        valid: Tensor,
        image_sizes: list[tuple[int, int]],
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            levels (list): for each level the anchors (N, Ri, 4), their logits (N, Ri, 1) and their
                deltas (N, Ri, 4).
            gt_instances (list[Instances]): N of them, with "gt_boxes".
            valid (Tensor): (N, R) bool, which anchors may be positive.
            image_sizes (list[tuple[int, int]]): N pairs of height and width.

        Returns:
            list[Instances]: N of them, the proposals.
            dict[str, Tensor]: see :meth:`predicted_anchor_losses`.
        """
        anchors, logits, deltas = (torch.cat(x, dim=1) for x in zip(*levels, strict=True))
        labels, boxes = self.label_and_sample_predicted_anchors(anchors, gt_instances, valid)
        losses = self.predicted_anchor_losses(anchors, logits[..., 0], labels, deltas, boxes)
        anchors, logits, deltas = zip(*levels, strict=True)
        logits = [x[..., 0] for x in logits]
        return self.predict_proposals(anchors, logits, deltas, image_sizes), losses

    @torch.no_grad()
    def label_and_sample_predicted_anchors(self, anchors, gt_instances, valid):
        """
        Args:
            anchors (Tensor): (N, R, 4).
            gt_instances (list[Instances]): N of them, with "gt_boxes".
            valid (Tensor): (N, R) bool, which anchors may be positive.

        Returns:
            Tensor: (N, R) labels in {-1, 0, 1}: -1 = ignored or not sampled, 0 = background.
            Tensor: (N, R, 4) boxes, undefined where the label is not 1.
        """
        match, boxes = match_predicted_anchors(self.anchor_matcher, gt_instances, anchors, valid)
        put_best_iou(match.best_iou)
        return torch.stack([self.sample_labels(labels) for labels in match.labels]), boxes

    def sample_labels(self, labels: Tensor) -> Tensor:
        """Labels (R,) in {-1, 0, 1}, with -1 for anchors that are not sampled."""
        positive, negative = subsample_labels(
            labels, self.batch_size_per_image, self.positive_fraction, 0
        )
        sampled = torch.full_like(labels, -1)
        return sampled.index_fill_(0, positive, 1).index_fill_(0, negative, 0)

    def predicted_anchor_losses(
        self, anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes
    ):
        """
        Args:
            anchors (Tensor): (N, R, 4).
            pred_objectness_logits (Tensor): (N, R).
            gt_labels, gt_boxes (Tensor): see :meth:`label_and_sample_predicted_anchors`.
            pred_anchor_deltas (Tensor): (N, R, 4).

        Returns:
            dict[str, Tensor]: the scalars "loss_rpn_cls" and "loss_rpn_loc", each divided by the
            number of anchors sampled, an image's positives and negatives counting at least 1 each.
        """
        kinds = torch.stack([gt_labels == 1, gt_labels == 0])
        counts = kinds.sum(dim=2)  # (2, N)
        positives, negatives = counts.float().mean(dim=1)
        put_scalars({"rpn/num_pos_anchors": positives, "rpn/num_neg_anchors": negatives})

        positive = kinds[0].flatten().nonzero()[:, 0]
        used = gt_labels >= 0
        class_loss = F.binary_cross_entropy_with_logits(
            pred_objectness_logits, (gt_labels == 1).to(pred_objectness_logits), reduction="none"
        )
        losses = {
            "loss_rpn_cls": (class_loss * used).sum(),
            "loss_rpn_loc": box_regression_loss(
                self.box2box_transform,
                *(x.flatten(0, 1)[positive] for x in (anchors, pred_anchor_deltas, gt_boxes)),
                self.box_reg_loss_type,
                self.smooth_l1_beta,
            ),
        }
        normalizer = loss_normalizer(counts.clamp(min=1).sum(), anchors.device)
        return {name: loss / normalizer * self.loss_weight[name] for name, loss in losses.items()}

    @torch.no_grad()
    def predict_proposals(
        self, anchors, pred_objectness_logits, pred_anchor_deltas, image_sizes
    ) -> list[Instances]:
        """The proposals of N images. Levels may be without anchors, all of them too.

        Args:
            anchors (list[Tensor]): (N, Ri, 4) per level.
            pred_objectness_logits (list[Tensor]): (N, Ri) per level.
            pred_anchor_deltas (list[Tensor]): (N, Ri, 4) per level.
            image_sizes (list[tuple[int, int]]): N pairs of height and width.

        Returns:
            list[Instances]: with "proposal_boxes" and "objectness_logits", the best first.
        """
        both = [torch.cat(list(x), dim=1) for x in (pred_anchor_deltas, anchors)]
        boxes = self.box2box_transform.apply_deltas(*(x.flatten(0, 1) for x in both))
        return find_top_rpn_proposals(
            boxes.view_as(both[1]).split([level.shape[1] for level in anchors], dim=1),
            [logits.detach() for logits in pred_objectness_logits],
            image_sizes,
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )
