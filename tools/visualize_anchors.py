"""Draw what a model's anchors are on images: one PNG per image, with these panels.

- The location probability of each level, of models that predict it (Guided Anchoring).
- Anchors. Guided Anchoring: the best that pass its filter. FreeAnchor: each object's bag, coloured
  by likelihood. RetinaNet and RPN: those that matching gives to the objects.
- The detections, or the best proposals.

The objects are the annotated ones where the image belongs to DATASETS.TEST or DATASETS.TRAIN, else
the model's own detections or best proposals.
"""

import argparse
import os
from collections import Counter

import cv2
from detectron2.data import Metadata, MetadataCatalog
from detectron2.engine import DefaultPredictor

from anchor_heads.anchor_generation.inspection import anchor_source
from anchor_heads.data.image_files import read_record_image
from anchor_heads.data.image_records import ImageRecords
from anchor_heads.engine import load_config, split_overrides
from anchor_heads.visualization.anchor_pictures import picture_of_anchors
from anchor_heads.visualization.drawing import SCORE_THRESHOLD


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config_file", metavar="CONFIG", help="path or name of a config")
    parser.add_argument("--weights", required=True, help="checkpoint of the model")
    parser.add_argument("--output-dir", default="output/anchors", help="(default: %(default)s)")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=SCORE_THRESHOLD,
        help="detections with a lower score are left out (default: %(default)s)",
    )
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="image files; then config keys and values in turn",
    )
    args = parser.parse_intermixed_args()
    args.images, args.opts = split_overrides(args.images)
    files = args.images if "://" in args.weights else [args.weights, *args.images]
    for file in files:
        if not os.path.isfile(file):
            parser.error(f"there is no file {os.path.abspath(file)}")
    if not args.images:
        parser.error("name at least one IMAGE")
    return args


def output_files(images: list[str], folder: str) -> list[str]:
    """A file for each picture; images of the same name are numbered."""
    seen, files = Counter(), []
    for image in images:
        stem = os.path.splitext(os.path.basename(image))[0]
        seen[stem] += 1
        number = f"_{seen[stem]}" if seen[stem] > 1 else ""
        files.append(os.path.join(folder, f"{stem}_anchors{number}.png"))
    return files


def main():
    args = parse_arguments()
    cfg = load_config(args)
    cfg.MODEL.WEIGHTS = args.weights
    records = ImageRecords(cfg)
    metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else Metadata()
    predictor = DefaultPredictor(cfg)
    anchor_source(predictor.model)  # raises if there are no anchors to show
    os.makedirs(args.output_dir, exist_ok=True)
    for image_file, output in zip(
        args.images, output_files(args.images, args.output_dir), strict=True
    ):
        record = records.find(image_file) or {"file_name": image_file}
        image = read_record_image(record)
        annotations = record.get("annotations")
        picture = picture_of_anchors(predictor, image, metadata, annotations, args.score_threshold)
        if not cv2.imwrite(output, picture):
            raise OSError(f"Cannot write {output}")
        print(f"Wrote {output}")


if __name__ == "__main__":
    main()
