"""Compare models on the images of one data set: their anchors, and what comes of them.

    python tools/compare_anchors.py --config-file quick_start/retinanet quick_start/da_retinanet \
        --weights retinanet.pth da_retinanet.pth
    python tools/compare_anchors.py --config-file output/a/config.yaml output/b/config.yaml \
        --weights output/a/model_final.pth output/b/model_final.pth DATASETS.TEST '("cells_val",)'

Writes comparison.json, comparison.md and comparison.html; what the numbers mean is said in the last
two. It can be stopped: the same command then goes on with the next image.
"""

import argparse
import sys

from anchor_heads.analysis.comparison.run import compare
from anchor_heads.analysis.reports import model_names
from anchor_heads.engine import load_config, split_overrides


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config-file",
        nargs="+",
        required=True,
        help="paths or names of configs. A training run leaves its own in OUTPUT_DIR/config.yaml",
    )
    parser.add_argument(
        "--weights", nargs="+", help="checkpoint of each model (default: its MODEL.WEIGHTS)"
    )
    parser.add_argument("--output-dir", default="output/comparison", help="(default: %(default)s)")
    parser.add_argument("--images", type=int, help="the first so many only (default: all)")
    parser.add_argument(
        "--pictures",
        type=int,
        default=4,
        help="how many images the page shows with anchors (default: %(default)s)",
    )
    parser.add_argument("--device", help="such as cpu or cuda (default: the config's MODEL.DEVICE)")
    parser.add_argument("opts", nargs="*", help="config keys and values in turn, for all models")
    # Else a list of files before the first key would take it for a file.
    command_line, opts = split_overrides(sys.argv[1:])
    args = parser.parse_args(command_line)
    args.opts += opts
    if args.weights and len(args.weights) != len(args.config_file):
        parser.error("--weights must name as many files as --config-file names configs")
    if args.images is not None and args.images < 1 or args.pictures < 0:
        parser.error("--images must be at least 1, and --pictures at least 0")
    return args


def load_configs(args):
    """The models' configs, by the names that the comparison gives them."""
    cfgs = [
        load_config(argparse.Namespace(config_file=file, opts=args.opts))
        for file in args.config_file
    ]
    for cfg, weights in zip(cfgs, args.weights or [], strict=False):
        cfg.MODEL.WEIGHTS = weights
    for cfg in cfgs:
        cfg.MODEL.DEVICE = args.device or cfg.MODEL.DEVICE
    return dict(zip(model_names(args.config_file), cfgs, strict=True))


def main():
    args = parse_arguments()
    try:
        written = compare(load_configs(args), args.output_dir, args.images, args.pictures)
    except KeyboardInterrupt:
        raise SystemExit(
            f"\nStopped. What is measured so far is kept in {args.output_dir}: the same command "
            "goes on from there."
        ) from None
    print(written["md"].read_text())
    print("Wrote " + ", ".join(str(path) for path in written.values()))


if __name__ == "__main__":
    main()
