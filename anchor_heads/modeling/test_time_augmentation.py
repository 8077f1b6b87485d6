"""Test-time augmentation: one image at several sizes and flipped, the results merged."""

import torch
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.modeling import DatasetMapperTTA, GeneralizedRCNN, GeneralizedRCNNWithTTA
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from torch import nn

from anchor_heads.data.mapper import DatasetMapper
from anchor_heads.modeling.distributed import unwrap
from anchor_heads.modeling.one_stage import best_after_nms, candidates_before_nms


def build_tta(cfg: CfgNode, model: nn.Module) -> nn.Module:
    """The model with the augmentations of ``cfg.TEST.AUG`` around it.

    Args:
        cfg (CfgNode): its TEST.AUG.MIN_SIZES, MAX_SIZE and FLIP are used.
        model (nn.Module): a dense detector or a GeneralizedRCNN, maybe wrapped for distributed
            training.

    Raises:
        ValueError: for a model whose results cannot be merged, such as ProposalNetwork, or one with
            keypoints or stored proposals.
    """
    model = unwrap(model)
    if isinstance(model, GeneralizedRCNN):
        for key in ("KEYPOINT_ON", "LOAD_PROPOSALS"):
            if cfg.MODEL[key]:
                raise ValueError(
                    f"Test-time augmentation cannot be used with MODEL.{key} True: set "
                    "TEST.AUG.ENABLED to False."
                )
        return GeneralizedRCNNWithTTA(cfg, model)
    if isinstance(model, DenseDetector):
        return DenseDetectorWithTTA(model, DatasetMapperTTA(cfg))
    raise ValueError(
        f"Test-time augmentation merges detections, and {type(model).__name__} makes none: "
        "set TEST.AUG.ENABLED to False, or use a one-stage model or a GeneralizedRCNN."
    )


def build_tta_test_loader(cfg: CfgNode, dataset_name: str):
    """A test loader that leaves the images at their original size.

    Augmentation resizes each image itself; with Detectron2's usual test loader, it would resize
    an image that was resized before.
    """
    mapper = DatasetMapper(cfg, is_train=False, augmentations=[])
    return build_detection_test_loader(cfg, dataset_name, mapper=mapper)


class DenseDetectorWithTTA(nn.Module):
    """A dense detector that merges its candidates from several augmented images.

    Each augmented image gives its candidates over the score threshold, with the model's limit per
    feature level. They are brought back to the original image, all thrown together, and then go
    once through NMS per class and the limit of detections per image. This is the multi-scale test
    of FreeAnchor's published code, which treats the levels of all scales as the levels of one
    image. It differs in three points: every scale is resampled from the image that is given (there
    from the image already resized to 800 pixels), images may be flipped, and boxes are clipped to
    the image after NMS as in Detectron2's dense detectors (there before).
    """

    def __init__(self, model: DenseDetector, tta_mapper):
        """
        Args:
            model (DenseDetector): a model that :func:`candidates_before_nms` can handle.
            tta_mapper (callable): takes an input dict and returns a list of them, each with an
                augmented "image" and, under "transforms", the TransformList from the original
                image to it. See Detectron2's DatasetMapperTTA.
        """
        super().__init__()
        self.model = model
        self.tta_mapper = tta_mapper

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        """Same format of inputs and outputs as :meth:`DenseDetector.forward` in inference.

        Raises:
            RuntimeError: if the model is in training mode.
        """
        if self.model.training:
            raise RuntimeError("Test-time augmentation needs the model in eval mode: call eval().")
        return [{"instances": self._detect(x)} for x in batched_inputs]

    def _detect(self, single_input: dict) -> Instances:
        height, width = single_input["image"].shape[1:]
        single_input = {"height": height, "width": width, **single_input}
        image_size = (single_input["height"], single_input["width"])
        with candidates_before_nms(self.model, self.model.test_topk_candidates):
            candidates = [
                self._candidates(augmented["image"], augmented["transforms"], image_size)
                for augmented in self.tta_mapper(single_input)
            ]
        merged = best_after_nms(
            candidates, self.model.test_nms_thresh, self.model.max_detections_per_image
        )
        return detector_postprocess(merged, *image_size)  # same size: clips, drops empty boxes

    def _candidates(self, image, transforms, image_size) -> Instances:
        """The candidates of one augmented image, in the frame of the original image."""
        model = self.model
        # Not model(...), which clips the boxes: dense detectors clip after NMS.
        images = model.preprocess_image([{"image": image}])
        features = model.backbone(images.tensor)
        features = [features[name] for name in model.head_in_features]
        found = model.forward_inference(images, features, model.head(features))[0]

        boxes = transforms.inverse().apply_box(found.pred_boxes.tensor.cpu().numpy())
        boxes = torch.as_tensor(boxes, dtype=torch.float32, device=found.scores.device)
        return Instances(
            image_size,
            pred_boxes=Boxes(boxes),
            scores=found.scores,
            pred_classes=found.pred_classes,
        )
