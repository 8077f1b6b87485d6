"""What a model found in an image or in a frame of a video."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances

from anchor_heads.prediction.sources import Source
from anchor_heads.visualization.drawing import MIN_SHORT_SIDE, SCORE_THRESHOLD, paint_detections


@dataclass
class PredictedFrame:
    """
    Attributes:
        source (Source): where the image is from.
        index (int or None): of the frame, from 0; None if the source is an image.
        image (ndarray): BGR image.
        instances (Instances): detections or proposals in the frame of the image, on the CPU.
        metadata (Metadata): its "thing_classes" name the classes.
        score_threshold (float): detections with a lower score are not painted.
    """

    source: Source
    index: int | None
    image: np.ndarray
    instances: Instances
    metadata: Metadata
    score_threshold: float = SCORE_THRESHOLD

    @cached_property
    def painted(self) -> np.ndarray:
        """The image with its detections painted in; small images enlarged, others as large."""
        scale = max(1.0, MIN_SHORT_SIDE / min(self.image.shape[:2]))
        return paint_detections(
            self.image, self.instances, self.metadata, self.score_threshold, scale
        )
