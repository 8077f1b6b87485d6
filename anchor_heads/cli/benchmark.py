"""Measure time and memory of a model, and of its parts, beside those of others.

    anchor-heads benchmark --config-file guided_anchoring/ga_rpn_R_50_FPN_1x \\
        baselines/rpn_R_50_FPN_1x
    anchor-heads benchmark --config-file dynamic_anchor/da_retinanet_R_50_FPN_1x \\
        baselines/retinanet_R_50_FPN_1x guided_anchoring/ga_retinanet_R_50_FPN_1x --kept 0.1
    anchor-heads benchmark --config-file free_anchor/free_anchor_R_50_FPN_1x \\
        baselines/retinanet_R_50_FPN_1x --training --output times.json

The first config is compared with each of the others. Without --training the models detect. The
parts, and how random weights, location maps and objects stand for real ones, are documented in
anchor_heads/analysis/benchmark/__init__.py; memory in anchor_heads/analysis/benchmark/memory.py.
Close all other programs first.
"""

import argparse
import json

import torch

from anchor_heads.analysis.benchmark.compare import compare
from anchor_heads.analysis.benchmark.report import describe
from anchor_heads.analysis.benchmark.workload import Workload
from anchor_heads.analysis.reports import environment, model_names
from anchor_heads.cli.arguments import (
    add_config,
    add_force,
    add_weights,
    check_outputs,
    load_configs,
    open_output,
)

# Judging the wanted locations and judging all may differ by this much.
TOLERANCE = 1e-5


def add_arguments(parser):
    add_config(parser, several=True)
    add_weights(parser, nargs="+", help="checkpoint of each model (default: random weights)")
    parser.add_argument(
        "--image-size", type=positive, nargs=2, default=[800, 1216], metavar=("H", "W")
    )
    parser.add_argument(
        "--kept",
        type=share,
        nargs="+",
        default=[0.02, 0.1, 0.5],
        help="shares of the locations where anchors are wanted (default: 0.02 0.1 0.5)",
    )
    parser.add_argument("--training", action="store_true", help="learn from an image")
    parser.add_argument(
        "--objects",
        type=count,
        nargs="+",
        default=[10, 100, 500],
        help="how many there are in it (default: 10 100 500)",
    )
    parser.add_argument("--repeats", type=positive, default=5, help="turns (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=2, help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="(default: %(default)s)")
    parser.add_argument("--output", metavar="FILE", help="JSON file for the results of each turn")
    add_force(parser)


def share(text):
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share: it must be in (0, 1]")
    return value


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def count(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is no number of objects")
    return value


def run(args):
    if args.output:
        check_outputs([args.output], args.weights or [], args.force)
    cfgs = load_configs(args)
    for cfg in cfgs:
        cfg.MODEL.DEVICE = args.device
        if not args.weights:
            cfg.MODEL.WEIGHTS = ""
    models = dict(zip(model_names(args.config_file), cfgs, strict=True))
    torch.set_num_threads(args.threads)
    size = tuple(args.image_size)
    if args.training:
        workloads = [Workload(size, num_objects=x) for x in args.objects]
    else:
        workloads = [Workload(size, kept=x) for x in args.kept]
    runs = compare(models, workloads, args.repeats)

    report = {
        "command": args.command,
        "arguments": vars(args),
        **environment(torch.device(args.device)),
        "runs": runs,
    }
    print(describe(report))
    if args.output:
        with open_output(args.output) as file:
            json.dump(report, file, indent=1)
    differences = [x for run in runs for x in run.get("largest_difference", {}).values()]
    difference = max(differences, default=0)
    if difference > TOLERANCE:
        raise RuntimeError(f"Judging some locations and judging all differ by {difference:.1e}.")
