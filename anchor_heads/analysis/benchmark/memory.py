"""The most memory that a model needs.

On a GPU these are the bytes that torch has allocated, on the CPU those that Linux has given to a
process of its own.
"""

import ctypes
import importlib
import multiprocessing
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from detectron2.config import CfgNode

from anchor_heads.analysis.benchmark.parts import OTHER, run_by_part
from anchor_heads.analysis.benchmark.workload import (
    Workload,
    build_measured_model,
    kept_locations,
    make_batch,
    run,
)

# From <malloc.h>. With fixed thresholds glibc gives larger blocks back to Linux as soon as they are
# freed. Else what one part has freed would serve the next one unseen.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, LEAST_BLOCK = -1, -3, 65536


def peak_memory(
    cfg: CfgNode, workloads: Sequence[Workload], modules: Sequence[str] = ()
) -> list[dict[str, int]] | None:
    """The most memory that a model needs.

    Args:
        cfg (CfgNode): the model's config.
        workloads (sequence of Workload): what it does.
        modules (sequence of str): what is imported first, to register the classes of the model.

    Returns:
        list[dict[str, int]] or None: bytes, for each workload; empty where the GPU has too few.
        "whole" is the most that building and running the model adds at a time, its weights and
        gradients among them; for each part it is the most that the part has itself allocated and
        not freed. None on the CPU of a system that is not Linux.
    """
    if torch.device(cfg.MODEL.DEVICE).type == "cuda":
        return _peaks(cfg, workloads)
    if sys.platform != "linux":
        return None
    spawn = multiprocessing.get_context("spawn")
    prepared = (modules, torch.get_num_threads())
    with ProcessPoolExecutor(1, spawn, _prepare, prepared) as process:
        return process.submit(_peaks, cfg, workloads).result()


def _prepare(modules: Sequence[str], num_threads: int) -> None:
    for name in modules:
        importlib.import_module(name)
    torch.set_num_threads(num_threads)
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_TRIM_THRESHOLD, LEAST_BLOCK)
    mallopt(M_MMAP_THRESHOLD, LEAST_BLOCK)


def _peaks(cfg, workloads) -> list[dict[str, int]]:
    counter = _counter(torch.device(cfg.MODEL.DEVICE))
    before = counter.held()
    model = build_measured_model(cfg, workloads[0].image_size)
    return [_peaks_of(model, workload, counter, before) for workload in workloads]


def _peaks_of(model, workload, counter, before) -> dict[str, int]:
    batch = make_batch(model.train(workload.training), workload)
    try:
        with kept_locations(model, workload):
            counter.forget_peak()
            for _ in range(2):  # the first run also makes what later ones keep
                run(model, batch, workload.dtype)
            whole = counter.peak() - before
            meter = MemoryMeter(counter)
            run_by_part(model, batch, workload.dtype, meter)
    except torch.OutOfMemoryError:
        return {}
    return {"whole": whole, **meter.peaks}


class MemoryMeter:
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
        self._part = OTHER
        self._start()

    def _start(self):
        self._counter.forget_peak()
        self._before = self._counter.held()

    def switch(self, part: str) -> str:
        name = self._part.split(":")[0]
        peak = self._own[name] + self._counter.peak() - self._before
        self.peaks[name] = max(peak, self.peaks.get(name, 0))
        self._own[name] += self._counter.held() - self._before
        before, self._part = self._part, part
        self._start()
        return before


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
