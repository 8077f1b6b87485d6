"""Time and memory of a model, and of its parts, beside those of others.

    python tools/benchmark.py --output times.json
    python tools/benchmark.py --config-file guided_anchoring/ga_rpn_R_50_FPN_1x \\
        --baseline baselines/rpn_R_50_FPN_1x
    python tools/benchmark.py --config-file dynamic_anchor/da_retinanet_R_50_FPN_1x --kept 0.1 \\
        --baseline baselines/retinanet_R_50_FPN_1x guided_anchoring/ga_retinanet_R_50_FPN_1x
    python tools/benchmark.py --training --config-file free_anchor/free_anchor_R_50_FPN_1x

Without --training the models detect. What the parts are, and how random weights, location maps and
objects stand for real ones, is said in anchor_heads/analysis/benchmark/__init__.py; what
memory is, in anchor_heads/analysis/benchmark/memory.py. Close all other programs first.
"""

import argparse
import json
import os
import shlex
import sys

import torch

from anchor_heads.analysis.benchmark.compare import compare
from anchor_heads.analysis.benchmark.report import describe
from anchor_heads.analysis.benchmark.workload import Workload
from anchor_heads.analysis.reports import environment, model_names
from anchor_heads.engine import load_config

# Judging the wanted locations and judging all may differ by this much.
TOLERANCE = 1e-5


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model, baseline = "guided_anchoring/ga_retinanet_R_50_FPN_1x", "baselines/retinanet_R_50_FPN_1x"
    parser.add_argument("--config-file", default=model, help="path or name (default: %(default)s)")
    parser.add_argument(
        "--baseline",
        nargs="+",
        default=[baseline],
        help=f"likewise, one or several (default: {baseline})",
    )
    parser.add_argument("--weights", default="", help="of the model (default: random)")
    parser.add_argument("--baseline-weights", nargs="+", help="of each of them (default: random)")
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
    parser.add_argument("--output", help="JSON file for the results, with the times of each turn")
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        help="config keys and values in turn, for all models; not right after --kept, --objects or "
        "--baseline",
    )
    args = parser.parse_args()
    if args.baseline_weights and len(args.baseline_weights) != len(args.baseline):
        parser.error("--baseline-weights must name as many files as --baseline names configs")
    return args


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


def load_configs(args):
    """The configs of all models, by short names."""
    files = [args.config_file, *args.baseline]
    weights = [args.weights, *(args.baseline_weights or [""] * len(args.baseline))]
    cfgs = [load_config(argparse.Namespace(config_file=x, opts=args.opts)) for x in files]
    for cfg, file in zip(cfgs, weights, strict=True):
        cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = args.device, file
    return dict(zip(model_names(files), cfgs, strict=True))


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    size = tuple(args.image_size)
    if args.training:
        workloads = [Workload(size, num_objects=x) for x in args.objects]
    else:
        workloads = [Workload(size, kept=x) for x in args.kept]
    runs = compare(load_configs(args), workloads, args.repeats)

    report = {
        "command": shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]]),
        "arguments": vars(args),
        **environment(torch.device(args.device)),
        "runs": runs,
    }
    print(describe(report))
    if args.output:
        os.makedirs(os.path.dirname(os.path.abspath(args.output)), exist_ok=True)
        with open(args.output, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    differences = [x for run in runs for x in run.get("largest_difference", {}).values()]
    difference = max(differences, default=0)
    if difference > TOLERANCE:
        raise SystemExit(f"Judging some locations and judging all differ by {difference:.1e}.")


if __name__ == "__main__":
    main()
