"""What the proposal generators have in common."""

import torch
import torch.nn.functional as F
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from anchor_heads.modeling.box_regression import BoundedBox2BoxTransform, box_regression_loss
from anchor_heads.modeling.distributed import loss_normalizer
from anchor_heads.modeling.matching import MaxIoUMatcher, match_predicted_anchors


class PredictedAnchorRPN(RPN):
    """A region proposal network that predicts its anchors, so that each image has its own.

    Labels, losses and proposals of RPN for such anchors; a method adds its head,
    :meth:`forward_training` and :meth:`forward_inference`, which hand each level's predictions to
    :meth:`train_on` and :meth:`propose`.

    Shape shorthand:

        N: number of images
        R: number of anchors of one image, over all levels
        Ri: number of anchors of one image on level i
    """

    # What takes the place of Detectron2's "StandardRPNHead", which knows no predicted anchors.
    HEAD_NAME: str

    @classmethod
    def from_config(cls, cfg, input_shape, min_iou: float):
        """
        Args:
            cfg (CfgNode): the config.
            input_shape (dict[str, ShapeSpec]): of the backbone's features.
            min_iou (float): see :func:`MaxIoUMatcher`.

        Raises:
            ValueError: if ``MODEL.RPN.BOUNDARY_THRESH`` is set.
        """
        if cfg.MODEL.RPN.BOUNDARY_THRESH >= 0:
            raise ValueError(
                f"MODEL.RPN.BOUNDARY_THRESH is {cfg.MODEL.RPN.BOUNDARY_THRESH}: predicted anchors "
                "are not left out for crossing the image's border. Set it to -1."
            )
        if cfg.MODEL.RPN.HEAD_NAME == "StandardRPNHead":
            cfg = cfg.clone()
            cfg.defrost()
            cfg.MODEL.RPN.HEAD_NAME = cls.HEAD_NAME
        ret = super().from_config(cfg, input_shape)
        node = cfg.MODEL.RPN
        return {
            **ret,
            "anchor_matcher": MaxIoUMatcher(node.IOU_THRESHOLDS, node.IOU_LABELS, min_iou),
            "box2box_transform": BoundedBox2BoxTransform(node.BBOX_REG_WEIGHTS),
        }

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

    @torch.no_grad()
    def label_and_sample_anchors(self, anchors, gt_instances, valid):
        """
        Args:
            anchors (Tensor): (N, R, 4).
            gt_instances (list[Instances]): N of them, with "gt_boxes".
            valid (Tensor): (N, R) bool, which anchors may learn.

        Returns:
            Tensor: (N, R) labels in {-1, 0, 1}: -1 = ignored or not sampled, 0 = background.
            Tensor: (N, R, 4) boxes, undefined where the label is not 1.
        """
        match = match_predicted_anchors(self.anchor_matcher, gt_instances, anchors, valid)
        return torch.stack([self._subsample_labels(x) for x in match.labels]), match.boxes

    def losses(self, anchors, pred_objectness_logits, gt_labels, pred_anchor_deltas, gt_boxes):
        """
        Args:
            anchors (Tensor): (N, R, 4).
            pred_objectness_logits (Tensor): (N, R).
            gt_labels, gt_boxes (Tensor): see :meth:`label_and_sample_anchors`.
            pred_anchor_deltas (Tensor): (N, R, 4).

        Returns:
            dict[str, Tensor]: the scalars "loss_rpn_cls" and "loss_rpn_loc", each divided by the
            number of anchors sampled, an image's positives and negatives counting at least 1 each.
        """
        positive, negative = gt_labels == 1, gt_labels == 0
        sampled = [kind.sum(dim=1).clamp(min=1).sum().item() for kind in (positive, negative)]
        storage = get_event_storage()
        for name, kind in (("pos", positive), ("neg", negative)):
            storage.put_scalar(f"rpn/num_{name}_anchors", kind.sum().item() / len(kind))

        used = positive | negative
        losses = {
            "loss_rpn_cls": F.binary_cross_entropy_with_logits(
                pred_objectness_logits[used], gt_labels[used].float(), reduction="sum"
            ),
            "loss_rpn_loc": box_regression_loss(
                self.box2box_transform,
                anchors[positive],
                pred_anchor_deltas[positive],
                gt_boxes[positive],
                self.box_reg_loss_type,
                self.smooth_l1_beta,
            ),
        }
        normalizer = loss_normalizer(sum(sampled), anchors.device)
        return {
            name: loss / normalizer * self.loss_weight.get(name, 1.0)
            for name, loss in losses.items()
        }

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
            gt_instances, valid: see :meth:`label_and_sample_anchors`.
            image_sizes (list[tuple[int, int]]): N pairs of height and width.

        Returns:
            list[Instances]: N of them, the proposals.
            dict[str, Tensor]: see :meth:`losses`.
        """
        anchors, logits, deltas = (torch.cat(x, dim=1) for x in zip(*levels, strict=True))
        labels, boxes = self.label_and_sample_anchors(anchors, gt_instances, valid)
        losses = self.losses(anchors, logits[..., 0], labels, deltas, boxes)
        proposals = [
            self.propose([[x[i].detach() for x in level] for level in levels], size)
            for i, size in enumerate(image_sizes)
        ]
        return proposals, losses

    def propose(self, levels, image_size: tuple[int, int]) -> Instances:
        """The proposals of one image.

        Args:
            levels (iterable): for each level the anchors (Ri, 4), their logits (Ri, 1) and their
                deltas (Ri, 4). Ri may be 0.
            image_size (tuple[int, int]): height and width.

        Returns:
            Instances: see :meth:`predict_proposals`.
        """
        anchors, logits, deltas = zip(*levels, strict=True)
        return self.predict_proposals(anchors, [x[:, 0] for x in logits], deltas, image_size)

    @torch.no_grad()
    def predict_proposals(
        self,
        anchors: list[Tensor],
        pred_objectness_logits: list[Tensor],
        pred_anchor_deltas: list[Tensor],
        image_size: tuple[int, int],
    ) -> Instances:
        """The proposals of one image. Levels may be without anchors, all of them too.

        Args:
            anchors (list[Tensor]): (Ri, 4) per level.
            pred_objectness_logits (list[Tensor]): (Ri,) per level.
            pred_anchor_deltas (list[Tensor]): (Ri, 4) per level.
            image_size (tuple[int, int]): height and width.

        Returns:
            Instances: with "proposal_boxes" and "objectness_logits", the best first.
        """
        boxes = [
            self.box2box_transform.apply_deltas(*level)[None]
            for level in zip(pred_anchor_deltas, anchors, strict=True)
        ]
        (proposals,) = find_top_rpn_proposals(
            boxes,
            [logits[None] for logits in pred_objectness_logits],
            [image_size],
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )
        return proposals
