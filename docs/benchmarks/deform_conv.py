"""Time the deformable convolution of this package beside torchvision's, on the CPU.

    python docs/benchmarks/deform_conv.py && python docs/tables.py

Writes docs/results/deform_conv.yaml.
"""

import functools
from pathlib import Path

import torch
import torchvision
import yaml
from torch.utils.benchmark import Timer

from anchor_heads.layers import deform_conv2d

CHANNELS, GROUPS, HEIGHT, WIDTH = 256, 4, 100, 152  # P3 of an image of 800x1216
FUNCTIONS = {
    "anchor_heads.layers.deform_conv2d": deform_conv2d,
    "torchvision.ops.deform_conv2d": functools.partial(torchvision.ops.deform_conv2d, padding=1),
}


def main():
    torch.manual_seed(0)
    x = torch.randn(1, CHANNELS, HEIGHT, WIDTH, requires_grad=True)
    offset = torch.randn(1, 2 * 9 * GROUPS, HEIGHT, WIDTH, requires_grad=True)
    weight = torch.randn(CHANNELS, CHANNELS, 3, 3, requires_grad=True)
    rows = []
    for name, function in FUNCTIONS.items():
        forward = functools.partial(function, x, offset, weight)
        steps = ("forward()", "forward().sum().backward()")
        times = [
            Timer(step, globals={"forward": forward}, num_threads=2)
            .adaptive_autorange(min_run_time=1, max_run_time=10)
            .median
            for step in steps
        ]
        rows.append([name, *(round(time, 2) for time in times)])
    content = {
        "setting": f"Deformable 3x3 convolution, {CHANNELS} channels, {GROUPS} groups of offsets, "
        f"a map of {HEIGHT}x{WIDTH}. Two CPU threads, torch {torch.__version__.split('+')[0]}, "
        "medians in seconds.",
        "command": "python docs/benchmarks/deform_conv.py",
        "columns": ["implementation", "forward", "forward and backward"],
        "rows": rows,
    }
    output = Path(__file__).parent.parent / "results" / "deform_conv.yaml"
    output.write_text(yaml.safe_dump(content, sort_keys=False, width=100, default_flow_style=None))


if __name__ == "__main__":
    main()
