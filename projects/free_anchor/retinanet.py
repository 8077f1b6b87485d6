import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.structures import Boxes

from anchor_heads.anchor_generation.strategy import get_anchor_strategy

from . import legacy
from .strategy import FreeAnchorLoss, FreeAnchorStrategy


@META_ARCH_REGISTRY.register()
class FreeAnchorRetinaNet(RetinaNet):
    """RetinaNet that learns which anchor detects which object (FreeAnchor, NeurIPS 2019).

    Network and inference are RetinaNet's; its matching by IoU thresholds and its two losses are
    replaced by one likelihood.
    """

    @configurable
    def __init__(self, *, free_anchor_loss: FreeAnchorLoss, legacy_boxes: bool = False, **kwargs):
        """
        Args:
            free_anchor_loss (FreeAnchorLoss): the loss.
            legacy_boxes (bool): clip and resize boxes as the published code does. Its anchors,
                rounded to pixels, are up to ``anchor_generator``.
            kwargs: see :class:`RetinaNet`. ``anchor_matcher``, the focal loss and the box loss
                arguments have no effect.
        """
        super().__init__(**kwargs)
        self.free_anchor_loss = free_anchor_loss
        self.legacy_boxes = legacy_boxes

    @classmethod
    def from_config(cls, cfg):
        ret = super().from_config(cfg)
        if cfg.MODEL.FREE_ANCHOR.LEGACY_BOXES:
            legacy.round_cell_anchors(ret["anchor_generator"], cfg.MODEL.ANCHOR_GENERATOR)
        return {
            **ret,
            "anchor_matcher": None,
            "free_anchor_loss": FreeAnchorLoss(
                cfg,
                box2box_transform=ret["box2box_transform"],
                smooth_l1_beta=cfg.MODEL.RETINANET.SMOOTH_L1_LOSS_BETA,
                box_reg_loss_type=cfg.MODEL.RETINANET.BBOX_REG_LOSS_TYPE,
            ),
            "legacy_boxes": cfg.MODEL.FREE_ANCHOR.LEGACY_BOXES,
        }

    def forward_training(self, images, features, predictions, gt_instances):
        """Same interface as :meth:`RetinaNet.forward_training`.

        Returns:
            dict[str, Tensor]: the scalars "loss_positive" and "loss_negative".
        """
        pred_logits, pred_deltas = self._transpose_dense_predictions(
            predictions, [self.num_classes, 4]
        )
        loss_positive, loss_negative = self.free_anchor_loss(
            Boxes.cat(self.anchor_generator(features)).tensor,
            torch.cat(pred_logits, dim=1),
            torch.cat(pred_deltas, dim=1),
            [x.gt_boxes.tensor for x in gt_instances],
            [x.gt_classes for x in gt_instances],
        )
        return {"loss_positive": loss_positive, "loss_negative": loss_negative}

    def _decode_per_level_predictions(
        self, anchors, pred_scores, pred_deltas, score_thresh, topk_candidates, image_size
    ):
        results = super()._decode_per_level_predictions(
            anchors, pred_scores, pred_deltas, score_thresh, topk_candidates, image_size
        )
        if self.legacy_boxes:
            legacy.clip(results.pred_boxes, results.image_size)
        return results

    def forward(self, batched_inputs):
        outputs = super().forward(batched_inputs)
        if self.legacy_boxes and not self.training:
            for x, output in zip(batched_inputs, outputs, strict=True):
                legacy.shift_resized(output["instances"], x["image"].shape[-2:])
        return outputs


get_anchor_strategy.register(FreeAnchorRetinaNet, FreeAnchorStrategy)
