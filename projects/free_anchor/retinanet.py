from collections.abc import Sequence

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.structures import Boxes

from anchor_heads.anchor_generation.strategy import get_anchor_strategy, warn_of_config_problems
from anchor_heads.checkpoint.refusal import refuse_other_frameworks
from anchor_heads.layers import is_exporting
from anchor_heads.modeling.one_stage import best_after_nms, decode_candidates
from anchor_heads.modeling.preset_shape_checks import check_preset_shapes

from . import legacy
from .strategy import BBOX_REG_WEIGHTS, FreeAnchorLoss, FreeAnchorStrategy


@META_ARCH_REGISTRY.register()
class FreeAnchorRetinaNet(RetinaNet):
    """RetinaNet that learns which anchor detects which object (FreeAnchor, NeurIPS 2019).

    Network and inference are RetinaNet's; its matching by IoU thresholds and its two losses are
    replaced by one likelihood.
    """

    @configurable
    def __init__(
        self,
        *,
        box2box_transform: Box2BoxTransform | None = None,
        smooth_l1_beta: float = 0.11,
        free_anchor_loss: FreeAnchorLoss | None = None,
        legacy_boxes: bool = False,
        anchor_matcher: Matcher | None = None,
        pixel_mean: Sequence[float] = (103.53, 116.28, 123.675),
        pixel_std: Sequence[float] = (1.0, 1.0, 1.0),
        **kwargs,
    ):
        """
        Args:
            box2box_transform (Box2BoxTransform or None): None for the published weights.
            smooth_l1_beta (float): where the box loss turns from quadratic to linear.
            free_anchor_loss (FreeAnchorLoss or None): the loss; None for the published settings.
            legacy_boxes (bool): clip and resize boxes as the published code does. Its anchors,
                rounded to pixels, are up to ``anchor_generator``.
            pixel_mean, pixel_std, kwargs: see :class:`RetinaNet`. ``anchor_matcher`` and the focal
                loss arguments have no effect.

        Raises:
            ValueError: if there is no such ``box_reg_loss_type``.
        """
        super().__init__(
            box2box_transform=box2box_transform or Box2BoxTransform(BBOX_REG_WEIGHTS),
            smooth_l1_beta=smooth_l1_beta,
            anchor_matcher=anchor_matcher,
            pixel_mean=pixel_mean,
            pixel_std=pixel_std,
            **kwargs,
        )
        self.free_anchor_loss = free_anchor_loss or FreeAnchorLoss(
            box2box_transform=self.box2box_transform,
            smooth_l1_beta=smooth_l1_beta,
            box_reg_loss_type=self.box_reg_loss_type,
        )
        self.legacy_boxes = legacy_boxes
        self.register_load_state_dict_pre_hook(refuse_other_frameworks)
        warn_of_config_problems(self)

    @classmethod
    def from_config(cls, cfg):
        check_preset_shapes(cfg)
        ret = super().from_config(cfg)
        if cfg.MODEL.FREE_ANCHOR.LEGACY_BOXES:
            legacy.round_cell_anchors(ret["anchor_generator"], cfg.MODEL.ANCHOR_GENERATOR)
        return {
            **ret,
            "free_anchor_loss": FreeAnchorLoss(
                cfg, ret["box2box_transform"], ret["smooth_l1_beta"], ret["box_reg_loss_type"]
            ),
            "legacy_boxes": cfg.MODEL.FREE_ANCHOR.LEGACY_BOXES,
        }

    def forward_training(self, images, features, predictions, gt_instances):
        """Same interface as :meth:`RetinaNet.forward_training`.

        Returns:
            dict[str, Tensor]: the scalars "loss_positive" and "loss_negative".
        """
        logits, deltas = predictions
        loss_positive, loss_negative = self.free_anchor_loss(
            Boxes.cat(self.anchor_generator(features)).tensor,
            torch.cat([permute_to_N_HWA_K(x, self.num_classes) for x in logits], dim=1),
            torch.cat([permute_to_N_HWA_K(x, 4) for x in deltas], dim=1),
            [x.gt_boxes.tensor for x in gt_instances],
            [x.gt_classes for x in gt_instances],
        )
        return {"loss_positive": loss_positive, "loss_negative": loss_negative}

    def inference_single_image(self, anchors, box_cls, box_delta, image_size):
        """Same interface as :meth:`RetinaNet.inference_single_image`."""
        if not self.legacy_boxes:
            return super().inference_single_image(anchors, box_cls, box_delta, image_size)
        levels = zip([x.tensor for x in anchors], box_cls, box_delta, strict=True)
        candidates = [
            decode_candidates(
                self.box2box_transform,
                level,
                self.test_score_thresh,
                self.test_topk_candidates,
                image_size,
                legacy.clip,
            )
            for level in levels
        ]
        return best_after_nms(candidates, self.test_nms_thresh, self.max_detections_per_image)

    def forward(self, batched_inputs):
        """Same interface as :meth:`DenseDetector.forward`.

        Raises:
            ValueError: if ``legacy_boxes`` are exported: they depend on the size of the image that
                the input was resized from.
        """
        outputs = super().forward(batched_inputs)
        if self.legacy_boxes and not self.training:
            if is_exporting():
                raise ValueError(
                    "MODEL.FREE_ANCHOR.LEGACY_BOXES True cannot be exported. With False the boxes "
                    "differ by about a pixel."
                )
            for x, output in zip(batched_inputs, outputs, strict=True):
                legacy.shift_resized(output["instances"], x["image"].shape[-2:])
        return outputs


get_anchor_strategy.register(FreeAnchorRetinaNet, FreeAnchorStrategy)
