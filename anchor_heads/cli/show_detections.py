"""Draw ground truth beside detections for the first images of DATASETS.TEST, as one picture.

    anchor-heads show-detections --config-file quick_start/free_anchor \\
        --weights output/quick_start/model_final.pth --output detections.png
"""

from anchor_heads.cli.arguments import (
    add_config,
    add_output,
    add_score_threshold,
    check_outputs,
    load_config,
    positive,
)
from anchor_heads.cli.outputs import check_picture
from anchor_heads.data.checks import check_class_order, check_datasets
from anchor_heads.predictor import load_predictor
from anchor_heads.visualization.drawing import picture_of_data_set, write_picture


def add_arguments(parser):
    add_config(parser)
    add_output(parser, "FILE", "picture to write", required=True)
    parser.add_argument("--num-images", type=positive, default=8, help="(default: %(default)s)")
    add_score_threshold(parser)


def run(args):
    check_picture(args.output)
    cfg = load_config(args)
    check_outputs([args.output], filter(None, [args.weights]), args.force)
    check_datasets(cfg, train=False)
    predictor, categories = load_predictor(cfg)
    names = [category["name"] for category in categories]
    check_class_order(cfg.MODEL.WEIGHTS, names, cfg, cfg.DATASETS.TEST)
    picture = picture_of_data_set(
        predictor, cfg.DATASETS.TEST[0], args.num_images, args.score_threshold
    )
    write_picture(args.output, picture)
    print(f"Wrote {args.output}")
