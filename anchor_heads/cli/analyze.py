"""Count parameters, multiply-adds and activations of a model by part; needs no data and no weights.

    anchor-heads analyze --config-file dynamic_anchor/da_retinanet_R_50_FPN_1x
    anchor-heads analyze --config-file quick_start/free_anchor --image-size 160 160

What is counted, and how, is documented in anchor_heads/analysis/model_analysis.py.
"""

from anchor_heads.analysis.model_analysis import analyze_model, table
from anchor_heads.cli.arguments import add_config, load_config, positive


def add_arguments(parser):
    add_config(parser, weights="")
    parser.add_argument(
        "--image-size",
        type=positive,
        nargs=2,
        default=[800, 1216],
        metavar=("H", "W"),
        help="in pixels (default: 800 1216)",
    )


def run(args):
    counts = analyze_model(load_config(args), args.image_size)
    height, width = args.image_size
    print(f"{args.config_file}: one image of {height}x{width}.\n\n{table(counts)}")
