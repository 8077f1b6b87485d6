"""The most memory that a model needs, measured in a process of its own.

On a GPU these are the bytes that torch has allocated, on the CPU those that Linux has given to the
process.
"""

import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import torch
from detectron2.config import CfgNode

from anchor_heads.analysis.benchmark.locations import given_locations
from anchor_heads.analysis.benchmark.parts import Meter, run_by_part
from anchor_heads.analysis.benchmark.workload import (
    Workload,
    build_timed_model,
    make_image,
    make_input,
    run,
)

# With fixed thresholds glibc gives larger blocks back to Linux as soon as they are freed. Else what
# one part has freed would serve the next one unseen.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def peak_memory(cfg: CfgNode, workloads: Sequence[Workload]) -> list[dict[str, int]] | None:
    """The most memory that a model needs.

    Args:
        cfg (CfgNode): the model's config.
        workloads (sequence of Workload): what it does, all with images of one size.

    Returns:
        list[dict[str, int]] or None: bytes, for each workload. "whole" is the most that building
        and running the model adds to the process at a time, its weights and gradients among them;
        for each part it is the most that the part has itself allocated and not freed. None on the
        CPU of a system that is not Linux.
    """
    if torch.device(cfg.MODEL.DEVICE).type != "cuda" and sys.platform != "linux":
        return None
    spawn = multiprocessing.get_context("spawn")
    with patch.dict(os.environ, ALLOCATOR), ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(_measure, cfg, workloads, torch.get_num_threads()).result()


def _measure(cfg, workloads, num_threads) -> list[dict[str, int]]:
    torch.set_num_threads(num_threads)
    counter = _counter(torch.device(cfg.MODEL.DEVICE))
    before = counter.held()
    model = build_timed_model(cfg, make_image(*workloads[0].image_size))
    peaks = []
    for workload in workloads:
        model_input = make_input(model.train(workload.training), workload)
        with given_locations(model, workload.kept):
            counter.forget_peak()
            for _ in range(2):  # the first run also makes what later ones keep
                run(model, model_input)
            whole = counter.peak() - before
            meter = MemoryMeter(counter)
            run_by_part(model, model_input, meter)
        peaks.append({"whole": whole, **meter.peaks})
    return peaks


class MemoryMeter(Meter):
    """The most bytes, in :attr:`peaks`, that each part has itself allocated and not freed."""

    def __init__(self, counter):
        """
        Args:
            counter: has ``held()``, the bytes held now, ``peak()``, the most held since
                ``forget_peak()``.
        """
        self.peaks = {}
        self._counter = counter
        self._own = Counter()
        super().__init__()

    def start(self):
        self._counter.forget_peak()
        self._before = self._counter.held()

    def stop(self):
        part = self.part.split(":")[0]
        peak = self._own[part] + self._counter.peak() - self._before
        self.peaks[part] = max(peak, self.peaks.get(part, 0))
        self._own[part] += self._counter.held() - self._before


def _counter(device: torch.device):
    """Counts the bytes of a GPU, or of this process."""
    if device.type == "cuda":
        return SimpleNamespace(
            held=partial(torch.cuda.memory_allocated, device),
            peak=partial(torch.cuda.max_memory_allocated, device),
            forget_peak=partial(torch.cuda.reset_peak_memory_stats, device),
        )
    return SimpleNamespace(
        held=partial(_status, "VmRSS"),
        peak=partial(_status, "VmHWM"),
        forget_peak=lambda: Path("/proc/self/clear_refs").write_text("5"),
    )


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))
