"""Evaluate a model on the data sets in DATASETS.TEST.

    anchor-heads eval --config-file quick_start/free_anchor --weights model_final.pth
    anchor-heads eval --config-file cells/config.yaml --weights cells/model_final.pth \\
        --output output/evaluation DATASETS.TEST '("cells_val",)'
"""

from pathlib import Path

from anchor_heads.cli.arguments import check_outputs, load_config
from anchor_heads.cli.train import add_run_arguments, set_overrides
from anchor_heads.engine import launch, train_or_evaluate
from anchor_heads.engine.lazy import is_lazy


def add_arguments(parser):
    add_run_arguments(parser)
    parser.add_argument(
        "--random-weights", action="store_true", help="evaluate although weights are as initialised"
    )
    parser.set_defaults(eval_only=True, resume=False)


def run(args):
    set_overrides(args)
    if not is_lazy(args.config_file):
        results = Path(load_config(args).OUTPUT_DIR, "inference")
        check_outputs(sorted(x for x in results.rglob("*") if x.is_file()), [], args.force)
    launch(train_or_evaluate, args)
