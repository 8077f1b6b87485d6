"""Images, videos and a model that finds the same in each."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

HEIGHT, WIDTH = 48, 64


@pytest.fixture
def write_image():
    """Writes an image of one colour, and the folders above it."""

    def write(path, value=0):
        path.parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), value, np.uint8))
        return str(path)

    return write


@pytest.fixture
def write_video():
    """Writes a video whose frames become lighter by 20 each."""

    def write(path, num_frames=3, fps=10.0, size=(WIDTH, HEIGHT)):
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), fps, size)
        assert writer.isOpened()
        for i in range(num_frames):
            writer.write(np.full((size[1], size[0], 3), 20 * i, np.uint8))
        writer.release()
        return str(path)

    return write


@pytest.fixture
def detections():
    """Two detections: of class 1 with score 0.9, and of class 0 with score 0.3."""
    return Instances(
        (HEIGHT, WIDTH),
        pred_boxes=Boxes(torch.tensor([[10.0, 20.0, 30.0, 45.0], [0.0, 0.0, 8.0, 4.0]])),
        scores=torch.tensor([0.9, 0.3]),
        pred_classes=torch.tensor([1, 0]),
    )
