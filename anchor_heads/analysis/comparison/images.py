"""The images of a data set, with what a comparison wants of their annotations."""

from typing import NamedTuple

import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import Boxes, BoxMode, Instances


class AnnotatedImage(NamedTuple):
    record: dict
    """In Detectron2's format, without annotations."""
    objects: Instances
    """With "gt_boxes" and "gt_classes", in the frame of the original image, without crowds."""


def annotated_images(dataset_name: str) -> list[AnnotatedImage]:
    """All images of a registered data set."""
    return [_annotated_image(record) for record in DatasetCatalog.get(dataset_name)]


def _annotated_image(record: dict) -> AnnotatedImage:
    annotations = [x for x in record.get("annotations", ()) if not x.get("iscrowd", 0)]
    boxes = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in annotations]
    objects = Instances(
        (record["height"], record["width"]),
        gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        gt_classes=torch.tensor([x["category_id"] for x in annotations], dtype=torch.int64),
    )
    without = {key: value for key, value in record.items() if key != "annotations"}
    return AnnotatedImage(without, objects[objects.gt_boxes.nonempty()])
