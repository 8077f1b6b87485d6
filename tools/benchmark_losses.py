"""Time and memory of FreeAnchor's loss beside RetinaNet's, forward and backward.

Both losses get the same random predictions, shaped like those for one image on a ResNet-FPN:
levels P3 to P7, nine anchors per location. Times are taken in turn in one process; memory is
the peak of a fresh process above what it held before its first loss (on the CPU read from /proc,
so on Linux only).

    python tools/benchmark_losses.py [--device cuda] [--objects 10 100 500]
"""

import argparse
import multiprocessing
import statistics
import time
from pathlib import Path

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_anchor_generator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from anchor_heads import model_zoo
from anchor_heads.projects.free_anchor.likelihood import FreeAnchorLoss
from anchor_heads.projects.free_anchor.retinanet import FreeAnchorRetinaNet

STRIDES = (8, 16, 32, 64, 128)


def make_model(name, device):
    """The detector of a config, without backbone and head."""
    cfg = model_zoo.get_config("free_anchor/free_anchor_R_50_FPN_1x")
    node = cfg.MODEL.RETINANET
    transform = Box2BoxTransform(node.BBOX_REG_WEIGHTS)
    common = dict(
        backbone=nn.Identity(),
        head=nn.Identity(),
        head_in_features=node.IN_FEATURES,
        anchor_generator=build_anchor_generator(cfg, [ShapeSpec(stride=s) for s in STRIDES]),
        box2box_transform=transform,
        anchor_matcher=Matcher(node.IOU_THRESHOLDS, node.IOU_LABELS, True),
        num_classes=node.NUM_CLASSES,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    )
    if name == "RetinaNet":
        return RetinaNet(**common).to(device)
    loss = FreeAnchorLoss(
        cfg,
        box2box_transform=transform,
        smooth_l1_beta=node.SMOOTH_L1_LOSS_BETA,
        box_reg_loss_type=node.BBOX_REG_LOSS_TYPE,
    )
    return FreeAnchorRetinaNet(free_anchor_loss=loss, **common).to(device)


def make_inputs(height, width, num_objects, num_classes, device):
    """Feature maps (for their size), (logits, deltas) per level and the objects of one image."""
    torch.manual_seed(0)
    sizes = [(-(-height // s), -(-width // s)) for s in STRIDES]
    features = [torch.empty(1, 1, h, w, device=device) for h, w in sizes]
    logits = [torch.randn(1, 9 * num_classes, h, w, device=device).sub_(4) for h, w in sizes]
    deltas = [torch.randn(1, 9 * 4, h, w, device=device).mul_(0.5) for h, w in sizes]
    for x in logits + deltas:
        x.requires_grad_()

    side = torch.exp(torch.empty(num_objects, 2).uniform_(3, 5.5))  # 20 to 245 pixels
    centre = torch.rand(num_objects, 2) * torch.tensor([width, height])
    boxes = Boxes(torch.cat([centre - side / 2, centre + side / 2], dim=1))
    boxes.clip((height, width))
    objects = Instances((height, width), gt_boxes=boxes)
    objects.gt_classes = torch.randint(num_classes, (num_objects,))
    return features, (logits, deltas), [objects.to(device)]


def step(model, features, predictions, objects):
    """Forward and backward; returns its seconds."""
    for x in predictions[0] + predictions[1]:
        x.grad = None
    synchronize(features[0].device)
    start = time.perf_counter()
    sum(model.forward_training(None, features, predictions, objects).values()).backward()
    synchronize(features[0].device)
    return time.perf_counter() - start


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def resident_kilobytes(field):
    """VmRSS, what this process holds now, or VmHWM, the most that it held since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure_memory(name, args, num_objects, result):
    """Put the peak memory of three steps into ``result``, in MB, above that of the inputs."""
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    model = make_model(name, device)
    inputs = make_inputs(*args.image_size, num_objects, model.num_classes, device)
    cuda = device.type == "cuda"
    if not cuda:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which a child inherits
    before = torch.cuda.memory_allocated() if cuda else resident_kilobytes("VmRSS") * 1024
    with EventStorage():
        for _ in range(3):
            step(model, *inputs)
    peak = torch.cuda.max_memory_allocated() if cuda else resident_kilobytes("VmHWM") * 1024
    result.value = (peak - before) / 1e6


def peak_memory(name, args, num_objects):
    spawn = multiprocessing.get_context("spawn")
    result = spawn.Value("d")
    process = spawn.Process(target=measure_memory, args=(name, args, num_objects, result))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"Measuring the memory of {name} failed.")
    return result.value


def compare_times(args, num_objects):
    """Medians in seconds of both losses, and median and quartiles of the ratios pair by pair."""
    device = torch.device(args.device)
    models = [make_model(name, device) for name in ("FreeAnchor", "RetinaNet")]
    inputs = make_inputs(*args.image_size, num_objects, models[0].num_classes, device)
    with EventStorage():
        for _ in range(args.warmup):
            [step(model, *inputs) for model in models]
        pairs = [[step(model, *inputs) for model in models] for _ in range(args.repeats)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return ours, theirs, statistics.quantiles([a / b for a, b in pairs], n=4)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objects", type=int, nargs="+", default=[10, 100, 500])
    parser.add_argument("--image-size", type=int, nargs=2, default=[800, 1216], metavar=("H", "W"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--warmup", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    height, width = args.image_size
    print(
        f"One image of {height}x{width}, 80 classes, {args.device}, {args.threads} threads, "
        f"torch {torch.__version__}; medians of {args.repeats} pairs.\n"
    )
    columns = ("objects", "FreeAnchor s", "RetinaNet s", "ratio (quartiles)")
    columns += ("FreeAnchor MB", "RetinaNet MB")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for n in args.objects:
        ours, theirs, (low, median, high) = compare_times(args, n)
        memory = [peak_memory(name, args, n) for name in ("FreeAnchor", "RetinaNet")]
        print(
            f"| {n} | {ours:.3f} | {theirs:.3f} | {median:.2f} ({low:.2f} to {high:.2f}) "
            f"| {memory[0]:.0f} | {memory[1]:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
