"""Inference time of a model, and of its parts, beside that of others.

    python tools/benchmark.py --output times.json
    python tools/benchmark.py --config-file guided_anchoring/ga_rpn_R_50_FPN_1x \
        --baseline baselines/rpn_R_50_FPN_1x
    python tools/benchmark.py --config-file dynamic_anchor/da_retinanet_R_50_FPN_1x --kept 0.1 \
        --baseline baselines/retinanet_R_50_FPN_1x guided_anchoring/ga_retinanet_R_50_FPN_1x

What is timed, and how random weights and location maps are made to stand for trained ones, is said
in anchor_heads/benchmark.py. Close all other programs first.
"""

import argparse
import json
from pathlib import Path

import torch

from anchor_heads.benchmark import build_timed_model, compare, environment, make_image, table
from anchor_heads.engine import load_config

# Sparse and dense path may differ by this much, see anchor_heads/benchmark.py.
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
    parser.add_argument("--image-size", type=int, nargs=2, default=[800, 1216], metavar=("H", "W"))
    parser.add_argument(
        "--kept",
        type=share,
        nargs="+",
        default=[0.02, 0.1, 0.5],
        help="shares of the locations where anchors are wanted (default: 0.02 0.1 0.5)",
    )
    parser.add_argument("--repeats", type=int, default=5, help="turns (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="(default: %(default)s)")
    parser.add_argument("--output", help="JSON file for the results, with the times of each turn")
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        help="config keys and values in turn, for all models; not right after --kept or --baseline",
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


def build(args, config_file, weights, image):
    cfg = load_config(argparse.Namespace(config_file=config_file, opts=args.opts))
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = args.device, weights
    return build_timed_model(cfg, image)


def main():
    args = parse_arguments()
    torch.set_num_threads(args.threads)
    image = make_image(*args.image_size)
    configs = [args.config_file, *args.baseline]
    weights = [args.weights, *(args.baseline_weights or [""] * len(args.baseline))]
    models = {
        config: build(args, config, weight, image)
        for config, weight in zip(configs, weights, strict=True)
    }
    runs = compare(models, image, args.kept, args.repeats)

    report = {"arguments": vars(args), **environment(torch.device(args.device)), "runs": runs}
    height, width = args.image_size
    print(
        f"{args.config_file} beside {', '.join(args.baseline)}: one image of {height}x{width}, "
        f"{args.repeats} turns, {report['device']}, {report['threads']} threads of "
        f"{report['cpu']}, torch {report['torch']}, {report['date']}.\n\n{table(runs)}"
    )
    if args.output:
        Path(args.output).write_text(json.dumps(report, indent=1) + "\n")
    difference = max(run.get("largest_difference", 0) for run in runs)
    if difference > TOLERANCE:
        raise SystemExit(f"The sparse and the dense path differ by {difference:.1e}.")


if __name__ == "__main__":
    main()
