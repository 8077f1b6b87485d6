"""Time and memory of a method's losses beside RetinaNet's, matching included, forward and backward.

The losses get random predictions, shaped like those for one image on a ResNet-FPN: levels P3 to
P7, nine anchors per location, or one predicted anchor. Times are taken in turn in one process;
memory is the peak of a fresh process above what it held before its first loss (on the CPU read
from /proc, so on Linux only).

    python tools/benchmark_losses.py [--method GuidedAnchor] [--device cuda] [--objects 10 100 500]
"""

import argparse
import multiprocessing
import statistics
import time
from pathlib import Path

import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from torch import nn

from anchor_heads import model_zoo
from anchor_heads.layers import flatten_hw
from anchor_heads.projects.dynamic_anchor.head import Prediction
from anchor_heads.projects.guided_anchoring.head import AnchorPrediction

CONFIGS = {
    "FreeAnchor": "free_anchor/free_anchor_R_50_FPN_1x",
    "GuidedAnchor": "guided_anchoring/ga_retinanet_R_50_FPN_1x",
    "DynamicAnchor": "dynamic_anchor/da_retinanet_R_50_FPN_1x",
    "RetinaNet": "baselines/retinanet_R_50_FPN_1x",
}
STRIDES = (8, 16, 32, 64, 128)
# What heads predict for an anchor beside classes and deltas: (channels, scale, mean) of each map.
SHAPE, LOCATION, QUALITY = (2, 0.3, 0.0), (1, 1.0, -4.0), (1, 1.0, 0.0)
EXTRA = {"GuidedAnchor": (LOCATION, SHAPE), "DynamicAnchor": (SHAPE, QUALITY)}


def make_model(name, device):
    """The detector of a config, without backbone and head."""
    cfg = model_zoo.get_config(CONFIGS[name])
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    model.backbone = model.head = nn.Identity()
    return model.to(device)


class GivenPredictions(nn.Module):
    """Stands for the head that judges guided anchors."""

    def __init__(self, logits, deltas):
        super().__init__()
        self.predictions = zip(logits, deltas, strict=True)

    def predict(self, guide):
        return tuple(flatten_hw(x) for x in next(self.predictions))


def make_predictions(name, sizes, num_classes, device):
    """Random maps of logits, deltas and what the method predicts beside them: lists of a leaf per
    level."""
    anchors = 1 if name in EXTRA else 9
    kinds = [(anchors * num_classes, 1.0, -4.0), (anchors * 4, 0.5, 0.0), *EXTRA.get(name, ())]

    def random(channels, scale, mean):
        maps = [torch.randn(1, channels, h, w, device=device) for h, w in sizes]
        return [x.mul_(scale).add_(mean).requires_grad_() for x in maps]

    return [random(*kind) for kind in kinds]


def head_output(name, model, maps):
    """The maps as the detector takes them from its head."""
    logits, deltas, *others = maps
    if name == "GuidedAnchor":
        model.head = GivenPredictions(logits, deltas)
        return [AnchorPrediction(*level, ()) for level in zip(*others, strict=True)]
    if name == "DynamicAnchor":
        shape, quality = others
        levels = zip(shape, logits, deltas, quality, strict=True)
        return [Prediction(*(flatten_hw(x) for x in level)) for level in levels]
    return maps


def make_objects(height, width, num_objects, num_classes, device):
    side = torch.exp(torch.empty(num_objects, 2).uniform_(3, 5.5))  # 20 to 245 pixels
    centre = torch.rand(num_objects, 2) * torch.tensor([width, height])
    boxes = Boxes(torch.cat([centre - side / 2, centre + side / 2], dim=1))
    boxes.clip((height, width))
    objects = Instances((height, width), gt_boxes=boxes)
    objects.gt_classes = torch.randint(num_classes, (num_objects,))
    return objects.to(device)


class Step:
    """The losses of one image, forward and backward."""

    def __init__(self, name, args, num_objects):
        torch.manual_seed(0)
        self.name = name
        height, width = args.image_size
        self.device = torch.device(args.device)
        self.model = make_model(name, self.device)
        sizes = [(-(-height // stride), -(-width // stride)) for stride in STRIDES]
        classes = self.model.num_classes
        self.predictions = make_predictions(name, sizes, classes, self.device)
        self.features = [torch.empty(1, 1, *size, device=self.device) for size in sizes]
        self.objects = [make_objects(height, width, num_objects, classes, self.device)]
        self.images = ImageList(torch.empty(1, 3, height, width), [(height, width)])

    def __call__(self):
        """Returns its seconds."""
        for level in self.predictions:
            for x in level:
                x.grad = None
        predictions = head_output(self.name, self.model, self.predictions)
        synchronize(self.device)
        start = time.perf_counter()
        losses = self.model.forward_training(self.images, self.features, predictions, self.objects)
        sum(losses.values()).backward()
        synchronize(self.device)
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
    step = Step(name, args, num_objects)
    cuda = step.device.type == "cuda"
    if not cuda:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak, which a child inherits
    before = torch.cuda.memory_allocated() if cuda else resident_kilobytes("VmRSS") * 1024
    with EventStorage():
        for _ in range(3):
            step()
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
    steps = [Step(name, args, num_objects) for name in (args.method, "RetinaNet")]
    with EventStorage():
        for _ in range(args.warmup):
            [step() for step in steps]
        pairs = [[step() for step in steps] for _ in range(args.repeats)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return ours, theirs, statistics.quantiles([a / b for a, b in pairs], n=4)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    methods = [name for name in CONFIGS if name != "RetinaNet"]
    parser.add_argument("--method", choices=methods, default=methods[0])
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
    columns = ("objects", f"{args.method} s", "RetinaNet s", "ratio (quartiles)")
    columns += (f"{args.method} MB", "RetinaNet MB")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for n in args.objects:
        ours, theirs, (low, median, high) = compare_times(args, n)
        memory = [peak_memory(name, args, n) for name in (args.method, "RetinaNet")]
        print(
            f"| {n} | {ours:.3f} | {theirs:.3f} | {median:.2f} ({low:.2f} to {high:.2f}) "
            f"| {memory[0]:.0f} | {memory[1]:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
