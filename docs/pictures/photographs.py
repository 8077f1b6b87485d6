"""Draw a model's anchors and detections on photographs, as at the top of the README.

    python docs/pictures/photographs.py --config-file RUN/config.yaml \\
        --weights RUN/model_final.pth --output docs/pictures/aquarium.jpg IMAGE [IMAGE ...]

Above: the anchor with the highest IoU with each annotated object, and that IoU. Below: detections
and their scores. The images belong to DATASETS.TEST or DATASETS.TRAIN.
"""

import argparse
import sys

import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from anchor_heads.cli.arguments import add_config, load_config, parse, score
from anchor_heads.data.image_files import read_record_image
from anchor_heads.data.image_records import ImageRecords, annotated_objects
from anchor_heads.predictor import load_predictor, metadata_of
from anchor_heads.visualization.anchor_pictures import network_input
from anchor_heads.visualization.drawing import SCORE_THRESHOLD, draw_detections
from anchor_heads.visualization.inspected_anchors import inspect_best_anchors

HEIGHT, GAP = 360, 8  # pixels


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_config(parser, "IMAGE")
    parser.add_argument("--output", required=True, metavar="FILE")
    parser.add_argument("--score-threshold", type=score, default=SCORE_THRESHOLD)
    args = parse(parser, sys.argv[1:])
    cfg = load_config(args)
    records = ImageRecords(cfg)
    predictor, categories = load_predictor(cfg)
    metadata = metadata_of(cfg, categories)
    of_anchors = Metadata(thing_classes=["IoU"] * len(categories))
    pictures = []
    for file in args.inputs:
        record = records.find(file)
        image = read_record_image(record)
        found = predictor(image)["instances"].to("cpu")
        anchors = best_anchors(predictor, image, record["annotations"])
        above = draw(image, anchors, 0.0, of_anchors)
        below = draw(image, found, args.score_threshold, metadata)
        pictures.append(join([above, below], axis=0))
    cv2.imwrite(args.output, join(pictures, axis=1))


def best_anchors(predictor, image, annotations) -> Instances:
    """The anchor of highest IoU of each object, as if detected with the IoU as its score."""
    resize, tensor = network_input(predictor, image)
    objects = annotated_objects(annotations, resize, tuple(tensor.shape[1:]))
    inspected = inspect_best_anchors(predictor.model, tensor, objects)
    boxes = Boxes(inspected.boxes.cpu())
    boxes.scale(image.shape[1] / tensor.shape[2], image.shape[0] / tensor.shape[1])
    return Instances(
        image.shape[:2],
        pred_boxes=boxes,
        pred_classes=objects.gt_classes,
        scores=inspected.scores.cpu(),
    )


def draw(image, instances, score_threshold, metadata) -> np.ndarray:
    """The image with boxes, at the common height."""
    scale = HEIGHT / image.shape[0]
    picture = draw_detections(image, instances, metadata, score_threshold, scale)
    return cv2.resize(picture, (round(image.shape[1] * scale), HEIGHT))


def join(pictures, axis) -> np.ndarray:
    """Pictures of one size along the other axis, with white between them."""
    shape = list(pictures[0].shape)
    shape[axis] = GAP
    gap = np.full(shape, 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis)


if __name__ == "__main__":
    main()
