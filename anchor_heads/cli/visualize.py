"""Draw the anchors of a model on images: one PNG per image, with these panels.

- The location probability of each level, of models that predict it (Guided Anchoring).
- Anchors. Guided Anchoring: the best that pass its filter. FreeAnchor: each object's bag, coloured
  by likelihood. RetinaNet and RPN: those that matching gives to the objects.
- The detections, or the best proposals.

The objects are the annotated ones where the image belongs to DATASETS.TEST or DATASETS.TRAIN, else
the model's own detections or best proposals.

    anchor-heads visualize --config-file quick_start/free_anchor \\
        --weights output/quick_start/model_final.pth datasets/shapes/val/000002.jpg
"""

import os
from collections import Counter

import cv2
from detectron2.data import Metadata, MetadataCatalog
from detectron2.engine import DefaultPredictor

from anchor_heads.anchor_generation.strategy import get_anchor_strategy
from anchor_heads.cli.arguments import (
    add_config,
    add_force,
    add_weights,
    check_outputs,
    load_config,
)
from anchor_heads.data.image_files import read_record_image
from anchor_heads.data.image_records import ImageRecords
from anchor_heads.visualization.anchor_pictures import picture_of_anchors
from anchor_heads.visualization.drawing import SCORE_THRESHOLD


def add_arguments(parser):
    add_config(parser, "IMAGE")
    add_weights(parser, required=True)
    parser.add_argument("--output-dir", default="output/anchors", help="(default: %(default)s)")
    add_force(parser)
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=SCORE_THRESHOLD,
        help="detections with a lower score are left out (default: %(default)s)",
    )


def run(args):
    if not args.inputs:
        raise ValueError("name at least one IMAGE")
    for file in args.inputs:
        if not os.path.isfile(file):
            raise FileNotFoundError(f"there is no file {os.path.abspath(file)}")
    cfg = load_config(args)
    outputs = output_files(args.inputs, args.output_dir)
    check_outputs(outputs, [*args.inputs, args.weights], args.force)
    records = ImageRecords(cfg)
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else Metadata()
    predictor = DefaultPredictor(cfg)
    get_anchor_strategy(predictor.model)  # raises if there are no anchors to show
    os.makedirs(args.output_dir, exist_ok=True)
    for image_file, output in zip(args.inputs, outputs, strict=True):
        record = records.find(image_file) or {"file_name": image_file}
        image = read_record_image(record)
        annotations = record.get("annotations")
        picture = picture_of_anchors(predictor, image, metadata, annotations, args.score_threshold)
        if not cv2.imwrite(output, picture):
            raise OSError(f"Cannot write {output}")
        print(f"Wrote {output}")


def output_files(images: list[str], folder: str) -> list[str]:
    """A file for each picture; images of the same name are numbered."""
    seen, files = Counter(), []
    for image in images:
        stem = os.path.splitext(os.path.basename(image))[0]
        seen[stem] += 1
        number = f"_{seen[stem]}" if seen[stem] > 1 else ""
        files.append(os.path.join(folder, f"{stem}_anchors{number}.png"))
    return files
