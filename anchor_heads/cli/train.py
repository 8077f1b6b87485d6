"""Train the model of a config, on one process or many.

anchor-heads train --config-file quick_start/free_anchor OUTPUT_DIR output/free_anchor
anchor-heads train --config-file free_anchor/free_anchor_R_50_FPN_1x --num-gpus 8
anchor-heads train --config-file quick_start/free_anchor --resume OUTPUT_DIR output/free_anchor
anchor-heads train --config-file ... --num-gpus 2 MODEL.DEVICE cpu
torchrun --nproc-per-node 8 -m anchor_heads train --config-file ...
"""

import argparse
import glob
import os

from anchor_heads.cli.arguments import add_config, add_force, add_weights, load_config
from anchor_heads.engine import Trainer, launch, setup


def add_arguments(parser):
    add_config(parser)
    add_weights(parser, help="checkpoint to start from (default: the config's MODEL.WEIGHTS)")
    parser.add_argument("--resume", action="store_true", help="resume the run in OUTPUT_DIR")
    add_force(parser)
    add_launch_arguments(parser)
    parser.set_defaults(eval_only=False)


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of Detectron2's parser that say which processes there are."""
    parser.add_argument("--num-gpus", type=int, default=1, help="processes *per machine*")
    parser.add_argument("--num-machines", type=int, default=1, help="(default: 1)")
    parser.add_argument("--machine-rank", type=int, default=0, help="of this machine, from 0")
    parser.add_argument(
        "--dist-url",
        default="auto",
        help='address where processes meet, such as "tcp://HOST:PORT" (default: a free port here)',
    )


def run(args):
    cfg = load_config(args)
    if not (args.resume or args.force):
        check_is_unused(cfg.OUTPUT_DIR)
    if args.weights:
        args.opts += ["MODEL.WEIGHTS", args.weights]
    launch(main, args)


def main(args):
    trainer = Trainer(setup(args))
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


def check_is_unused(folder: str) -> None:
    """
    Raises:
        FileExistsError: if there are checkpoints in the folder.
    """
    if checkpoints := sorted(glob.glob(os.path.join(glob.escape(folder), "*.pth"))):
        raise FileExistsError(
            f"OUTPUT_DIR {folder} has the checkpoints of another run, such as {checkpoints[0]}: "
            "name another folder, go on with that run with --resume, or overwrite it with --force"
        )
