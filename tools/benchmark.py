"""Inference time of a model, and of its parts, beside that of a plain one.

    python tools/benchmark.py --output times.json
    python tools/benchmark.py --config-file guided_anchoring/ga_rpn_R_50_FPN_1x \
        --baseline baselines/rpn_R_50_FPN_1x

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
    parser.add_argument("--baseline", default=baseline, help="likewise (default: %(default)s)")
    parser.add_argument("--weights", default="", help="of the model (default: random)")
    parser.add_argument("--baseline-weights", default="", help="likewise (default: random)")
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
        help="config keys and values in turn, for both models; not right after --kept",
    )
    return parser.parse_args()


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
    model = build(args, args.config_file, args.weights, image)
    baseline = build(args, args.baseline, args.baseline_weights, image)
    runs = compare(model, baseline, image, args.kept, args.repeats)

    report = {"arguments": vars(args), **environment(model.device), "runs": runs}
    height, width = args.image_size
    print(
        f"{args.config_file} beside {args.baseline}: one image of {height}x{width}, {args.repeats} "
        f"turns, {report['device']}, {report['threads']} threads of {report['cpu']}, "
        f"torch {report['torch']}, {report['date']}.\n\n{table(runs)}"
    )
    if args.output:
        Path(args.output).write_text(json.dumps(report, indent=1) + "\n")
    difference = max(run.get("largest_difference", 0) for run in runs)
    if difference > TOLERANCE:
        raise SystemExit(f"The sparse and the dense path differ by {difference:.1e}.")


if __name__ == "__main__":
    main()
