"""Draw ground truth beside detections for the first images of DATASETS.TEST, as one PNG."""

import argparse
import os

import cv2
from detectron2.engine import DefaultPredictor

from anchor_heads.data.checks import check_datasets
from anchor_heads.engine import load_config
from anchor_heads.visualization.drawing import SCORE_THRESHOLD, picture_of_data_set


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", required=True, help="path or name of a config")
    parser.add_argument("--weights", required=True, help="checkpoint of the model")
    parser.add_argument("--num-images", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--output", required=True, help="the picture to write")
    parser.add_argument(
        "--score-threshold",
        type=float,
        default=SCORE_THRESHOLD,
        help="detections with a lower score are left out (default: %(default)s)",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config keys and values in turn")
    return parser.parse_args()


def main():
    args = parse_arguments()
    cfg = load_config(args)
    cfg.MODEL.WEIGHTS = args.weights
    check_datasets(cfg, train=False)
    picture = picture_of_data_set(
        DefaultPredictor(cfg), cfg.DATASETS.TEST[0], args.num_images, args.score_threshold
    )
    os.makedirs(os.path.dirname(os.path.abspath(args.output)), exist_ok=True)
    if not cv2.imwrite(args.output, picture):
        raise OSError(f"Cannot write {args.output}")
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    main()
