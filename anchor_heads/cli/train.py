"""Train the model of a config, on one process or many.

anchor-heads train --config-file quick_start/free_anchor --output output/free_anchor
anchor-heads train --config-file free_anchor/free_anchor_R_50_FPN_1x --num-gpus 8
anchor-heads train --config-file quick_start/free_anchor --output output/free_anchor --resume
anchor-heads train --config-file ... --num-gpus 2 MODEL.DEVICE cpu
torchrun --nproc-per-node 8 -m anchor_heads train --config-file ...
"""

import argparse

from anchor_heads.cli.arguments import add_config, add_output, check_weights
from anchor_heads.engine import launch, train_or_evaluate
from anchor_heads.engine.lazy import is_lazy


def add_arguments(parser):
    add_run_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="resume the run in the folder")
    parser.set_defaults(eval_only=False)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add config, weights, output, and the arguments of Detectron2's parser that say which
    processes there are."""
    add_config(parser)
    add_output(parser, "FOLDER", "folder of the run (default: the config's OUTPUT_DIR)")
    parser.add_argument("--num-gpus", type=int, default=1, help="processes *per machine*")
    parser.add_argument("--num-machines", type=int, default=1, help="(default: 1)")
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine, from 0")
    parser.add_argument(
        "--dist-url",
        default="auto",
        help='address where processes meet, such as "tcp://HOST:PORT" (default: a free port here)',
    )
    parser.add_argument(
        "--dist-timeout",
        type=float,
        default=30,
        metavar="MINUTES",
        help="how long to wait for the processes of other machines (default: 30)",
    )


def run(args):
    set_overrides(args)
    launch(train_or_evaluate, args)


def set_overrides(args: argparse.Namespace) -> None:
    """Add what ``--weights`` and ``--output`` stand for to the overrides.

    Raises:
        FileNotFoundError: if there is no such file of weights.
    """
    if args.weights:
        check_weights(args.weights)
    is_python = is_lazy(args.config_file)
    for value, key, python_key in (
        (args.weights, "MODEL.WEIGHTS", "train.init_checkpoint"),
        (args.output, "OUTPUT_DIR", "train.output_dir"),
    ):
        if value and is_python:  # in quotes, since a path may have any characters
            args.opts.append(f"{python_key}='" + value.replace("'", r"\'") + "'")
        elif value:
            args.opts += [key, value]
