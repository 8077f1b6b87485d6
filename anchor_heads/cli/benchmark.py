"""Measure time and peak memory of models side by side, and of their parts.

    anchor-heads benchmark --config-file baselines/retinanet_R_50_FPN_1x \\
        guided_anchoring/ga_retinanet_R_50_FPN_1x dynamic_anchor/da_retinanet_R_50_FPN_1x
    anchor-heads benchmark --config-file baselines/retinanet_R_50_FPN_1x \\
        free_anchor/free_anchor_R_50_FPN_1x --task training --objects 10 100 --output times.json
    anchor-heads benchmark --config-file baselines/rpn_R_50_FPN_1x \\
        guided_anchoring/ga_rpn_R_50_FPN_1x --device cuda --task inference training \\
        --batch-size 1 8 --train-batch-size 2 16 --dtype float32 bfloat16

Ratios are to the first model of the same kind: one-stage detectors, proposal networks, two-stage
detectors. The parts, and how random weights, locations and objects stand for real ones, are
documented in anchor_heads/analysis/benchmark/__init__.py. Close all other programs first.

The output is written after each step. A model that fails in a workload is left out there, and the
command ends with 1.
"""

import itertools
import json

import torch

from anchor_heads.analysis.benchmark.measure import RUNTIMES, measure
from anchor_heads.analysis.benchmark.report import describe
from anchor_heads.analysis.benchmark.workload import Workload
from anchor_heads.analysis.reports import environment, model_names
from anchor_heads.cli.arguments import (
    add_config,
    add_output,
    check_outputs,
    load_configs,
    open_output,
    positive,
)
from anchor_heads.errors import first_line


def add_arguments(parser):
    def add_list(option, default, help, **kwargs):
        shown = " ".join(map(str, default)) or "none"
        help = f"{help} (default: {shown})"
        parser.add_argument(option, nargs="+", default=default, help=help, **kwargs)

    add_config(parser, several=True, weights="random weights")
    add_output(parser, "FILE", help="JSON file for the results of each turn")
    size = [800, 1216]
    parser.add_argument("--image-size", type=positive, nargs=2, default=size, metavar=("H", "W"))
    add_list("--task", ["inference"], "what is measured", choices=("inference", "training"))
    add_list("--batch-size", [1], "images, in inference", type=positive)
    add_list("--train-batch-size", [1], "images, in training", type=positive)
    dtypes = ("float32", "bfloat16", "float16")
    add_list("--dtype", ["float32"], "other than float32 by autocast", choices=dtypes)
    kept = "in inference, the shares of the locations kept by models that predict them"
    add_list("--kept", [0.02, 0.1, 0.5], kept, type=float)
    add_list("--objects", [10, 100, 500], "in each image that is trained on", type=int)
    add_list(
        "--runtime", [], "besides eager PyTorch; only compile trains", choices=sorted(RUNTIMES)
    )
    parser.add_argument("--repeats", type=positive, default=5, help="turns (default: %(default)s)")
    parser.add_argument("--threads", type=positive, default=2, help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="(default: %(default)s)")


def check_options(args):
    """
    Raises:
        ValueError: if a number is out of its range, or there is no such device.
    """
    if min(args.objects) < 0 or min(args.kept) <= 0 or max(args.kept) > 1:
        raise ValueError("--objects must be at least 0, and --kept shares in (0, 1]")
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device {args.device} cannot be used here: {first_line(error)}"
        ) from None


def workloads(args) -> list[Workload]:
    """All combinations of the options of each task."""
    size = tuple(args.image_size)
    result = []
    if "inference" in args.task:
        options = itertools.product(args.batch_size, args.dtype, args.kept)
        result += [Workload(size, batch, dtype, kept=kept) for batch, dtype, kept in options]
    if "training" in args.task:
        options = itertools.product(args.train_batch_size, args.dtype, args.objects)
        result += [Workload(size, batch, dtype, objects=x) for batch, dtype, x in options]
    return result


def run(args):
    check_options(args)
    if args.output:
        check_outputs([args.output], args.weights or [], args.force)
    cfgs = load_configs(args)
    for cfg in cfgs:
        cfg.MODEL.DEVICE = args.device
        if not args.weights:
            cfg.MODEL.WEIGHTS = ""
    models = dict(zip(model_names(args.config_file), cfgs, strict=True))
    torch.set_num_threads(args.threads)
    report = {
        "command": args.command,
        **environment(torch.device(args.device)),
        "configs": args.config_file,
        "overrides": args.opts,
        "repeats": args.repeats,
    }

    def save(results):
        if args.output:
            with open_output(args.output) as file:
                json.dump({**report, "runs": results}, file, indent=1)

    results = measure(models, workloads(args), args.repeats, args.runtime, save)
    print(describe({**report, "runs": results}))
    return int(any(x["failed"] for x in results))
