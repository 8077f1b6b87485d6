"""Pictures of the anchors that models put on the objects of an image."""

from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

import cv2
import numpy as np
import torch
from detectron2.structures import Instances
from torch import Tensor

from anchor_heads.analysis.comparison.measure import (
    AnnotatedImage,
    ComparedModel,
    best_anchors,
    to_input,
)
from anchor_heads.data.image_files import read_record_image
from anchor_heads.visualization.anchor_pictures import color_bar, draw_anchors
from anchor_heads.visualization.inspected_anchors import InspectedAnchors, inspect_anchors

# Long side in pixels.
PICTURE_SIDE = 480
JPEG_QUALITY = 80


class Picture(NamedTuple):
    jpeg: bytes
    caption: str


class ImagePictures(NamedTuple):
    """The pictures of one image."""

    name: str
    """Of the file."""
    models: dict[str, list[Picture]]
    """By name of the model: its best anchor of each object, and the anchors that it counts on."""


def pictures_of(
    models: Sequence[ComparedModel], images: Sequence[AnnotatedImage], number: int
) -> list[ImagePictures]:
    """Pictures of some images with objects, spread evenly over all of them.

    Args:
        models (sequence of ComparedModel): the models.
        images (sequence of AnnotatedImage): to choose from.
        number (int): how many images at most.
    """
    with_objects = [image for image in images if len(image.objects)]
    chosen = np.linspace(0, len(with_objects) - 1, min(number, len(with_objects))).astype(int)
    return [
        ImagePictures(
            PurePath(with_objects[i].record["file_name"]).name,
            {model.name: _pictures(model, with_objects[i]) for model in models},
        )
        for i in chosen
    ]


@torch.no_grad()
def _pictures(model: ComparedModel, image: AnnotatedImage) -> list[Picture]:
    model_input = model.load(image)
    size = tuple(model_input["image"].shape[1:])
    boxes = to_input(image.objects.gt_boxes, model_input)
    objects = Instances(size, gt_boxes=boxes, gt_classes=image.objects.gt_classes)
    pixels = _resized(read_record_image(image.record))
    best = show_best_anchors(model.run(model_input).anchors.cpu(), objects)
    inspected = inspect_anchors(model.model, model_input["image"], objects)
    return [_picture(pixels, best, boxes, highest=1.0), _picture(pixels, inspected, boxes)]


def show_best_anchors(anchors: Tensor, objects: Instances) -> InspectedAnchors:
    """The anchor that overlaps each object most.

    Args:
        anchors (Tensor): (R, 4); R may be 0.
        objects (Instances): one at least, with "gt_boxes".
    """
    iou, indices = best_anchors(anchors, objects.gt_boxes.tensor)
    caption = f"The anchor with the highest IoU with each object; the mean IoU is {iou.mean():.2f}"
    shown = slice(len(iou) if len(anchors) else 0)
    return InspectedAnchors(objects.image_size, anchors[indices[shown]], iou[shown], "IoU", caption)


def _resized(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    scale = PICTURE_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


def _picture(image, inspected, objects, highest=None) -> Picture:
    painted = draw_anchors(image, inspected, objects, highest)
    _, jpeg = cv2.imencode(".jpg", painted, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    strongest = float(inspected.scores.max()) if len(inspected.scores) else 0.0
    colors = f"Colours: {inspected.score_name} 0 to {highest or strongest:.2g}"
    return Picture(jpeg.tobytes(), f"{inspected.caption}. {colors}.")


def color_bar_png() -> bytes:
    """The colours of anchors, from low to high."""
    return cv2.imencode(".png", color_bar(160, 10))[1].tobytes()
