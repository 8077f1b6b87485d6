"""Evaluate a model on the data sets in DATASETS.TEST.

    anchor-heads eval --config-file quick_start/free_anchor --weights model_final.pth
    anchor-heads eval --config-file cells/config.yaml --weights cells/model_final.pth \\
        DATASETS.TEST '("cells_val",)' OUTPUT_DIR output/evaluation
"""

from anchor_heads.cli.arguments import add_config, add_weights
from anchor_heads.cli.train import add_launch_arguments, run

__all__ = ["add_arguments", "run"]


def add_arguments(parser):
    add_config(parser)
    add_weights(parser)
    parser.add_argument(
        "--random-weights", action="store_true", help="evaluate although weights are as initialised"
    )
    add_launch_arguments(parser)
    parser.set_defaults(eval_only=True, resume=False)
