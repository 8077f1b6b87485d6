"""Hooks beside Detectron2's own."""

import torch
from detectron2.data import Metadata
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from detectron2.modeling.meta_arch.dense_detector import DenseDetector

from anchor_heads.visualization.drawing import ground_truth_beside_detections


class PicturesInTraining(HookBase):
    """Every VIS_PERIOD iterations, ground truth beside detections of one training image.

    The picture goes to TensorBoard. GeneralizedRCNN and ProposalNetwork make theirs themselves;
    Detectron2's dense detectors leave VIS_PERIOD unheeded. Training is not touched by it.
    """

    def __init__(self, model: DenseDetector, period: int, image_format: str, metadata: Metadata):
        """
        Args:
            model (DenseDetector): the model in training.
            period (int): the number of iterations between two pictures.
            image_format (str): INPUT.FORMAT, the channel order of the model's input.
            metadata (Metadata): of the training set, for the names of the classes.
        """
        self.model = model
        self.period = period
        self.image_format = image_format
        self.metadata = metadata

    def after_step(self):
        if self.trainer.iter % self.period == 0:
            image = self.trainer.current_batch[0]
            self.trainer.storage.put_image("ground_truth_beside_detections", self.draw(image))

    @torch.no_grad()
    def draw(self, image: dict):
        """The picture of an image as the mapper made it: an array of shape (3, H, W), RGB."""
        with inference_context(self.model):
            detections = self.model([{"image": image["image"]}])[0]["instances"]
        rgb = convert_image_to_rgb(image["image"].permute(1, 2, 0), self.image_format)
        picture = ground_truth_beside_detections(
            rgb[:, :, ::-1], image["instances"], detections.to("cpu"), self.metadata
        )
        return picture[:, :, ::-1].transpose(2, 0, 1)
