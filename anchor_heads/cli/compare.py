"""Compare models on the images of one data set: their anchors, and their results.

    anchor-heads compare --config-file quick_start/retinanet quick_start/da_retinanet \\
        --weights retinanet.pth da_retinanet.pth
    anchor-heads compare --config-file output/a/config.yaml output/b/config.yaml \\
        --weights output/a/model_final.pth output/b/model_final.pth DATASETS.TEST '("cells_val",)'

Writes comparison.json, and comparison.html, which explains the numbers. It can be stopped: the same
command then continues with the next image.
"""

from pathlib import Path

from anchor_heads.analysis.comparison.run import compare, overview
from anchor_heads.analysis.reports import model_names
from anchor_heads.cli.arguments import add_config, add_output, check_outputs, load_configs, positive


def add_arguments(parser):
    add_config(parser, several=True)
    add_output(parser, "FOLDER", default="output/comparison")
    parser.add_argument(
        "--images", type=positive, help="use only the first N images (default: all)"
    )
    parser.add_argument(
        "--pictures",
        type=int,
        default=4,
        help="how many images the page shows with anchors (default: %(default)s)",
    )


def run(args):
    if args.pictures < 0:
        raise ValueError("--pictures must be at least 0")
    outputs = [Path(args.output, f"comparison.{kind}") for kind in ("json", "html")]
    check_outputs(outputs, args.weights or [], args.force)
    named = dict(zip(model_names(args.config_file), load_configs(args), strict=True))
    try:
        report = compare(named, args.output, args.images, args.pictures)
    except KeyboardInterrupt:
        print(f"\nStopped. Run the same command to continue with what is in {args.output}.")
        raise
    print(overview(report["models"]))
    print("Wrote " + ", ".join(map(str, outputs)))
