"""Print the parameters, multiply-adds and activations of a model, by part.

    python tools/analyze_model.py dynamic_anchor/da_retinanet_R_50_FPN_1x
    python tools/analyze_model.py configs/quick_start/free_anchor.yaml --image-size 160 160

It needs no data set and no weights. What is counted, and how, is said in
anchor_heads/analysis/model_analysis.py.
"""

import argparse

from anchor_heads.analysis.model_analysis import analyze_model, table
from anchor_heads.engine import load_config


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config_file", metavar="CONFIG", help="path or name of a config")
    parser.add_argument(
        "--image-size",
        type=int,
        nargs=2,
        default=[800, 1216],
        metavar=("H", "W"),
        help="in pixels (default: 800 1216)",
    )
    parser.add_argument("opts", nargs="*", help="config keys and values in turn")
    return parser.parse_intermixed_args()


def main():
    args = parse_arguments()
    counts = analyze_model(load_config(args), args.image_size)
    height, width = args.image_size
    print(f"{args.config_file}: one image of {height}x{width}.\n\n{table(counts)}")


if __name__ == "__main__":
    main()
