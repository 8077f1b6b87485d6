"""The most memory that a model needs."""

import ctypes
import importlib
import logging
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from detectron2.config import CfgNode

from anchor_heads.analysis.benchmark.workload import (
    Workload,
    build_measured_model,
    kept_locations,
    make_batch,
    run,
)

logger = logging.getLogger(__name__)

# From <malloc.h>. With fixed thresholds glibc gives larger blocks back to Linux as soon as they are
# freed, so that none are left over from an earlier workload.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, LEAST_BLOCK = -1, -3, 65536


def peak_memory(
    cfg: CfgNode, workloads: Sequence[Workload], modules: Sequence[str] = ()
) -> list[int | None]:
    """The most memory that building and running a model adds at a time, its weights and gradients
    among it: on a GPU what torch has allocated, on the CPU what Linux has given to a fresh process.

    Args:
        cfg (CfgNode): the model's config.
        workloads (sequence of Workload): what it does.
        modules (sequence of str): what is imported first, to register the classes of the model.

    Returns:
        list[int or None]: bytes, for each workload; None where the model fails, as for lack of
        memory, and on the CPU of a system that is not Linux.
    """
    if torch.device(cfg.MODEL.DEVICE).type == "cuda":
        return _peaks(cfg, workloads)
    if sys.platform != "linux":
        return [None] * len(workloads)
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


def _peaks(cfg, workloads) -> list[int | None]:
    device = torch.device(cfg.MODEL.DEVICE)
    _peak(device)
    before = _peak(device)
    model = build_measured_model(cfg, workloads[0].image_size)
    peaks = []
    for workload in workloads:
        batch = make_batch(model.train(workload.training), workload)
        try:
            with kept_locations(model, workload):
                _peak(device)
                for _ in range(2):  # the first run also makes what later ones keep
                    run(model, batch, workload.dtype)
                peaks.append(_peak(device) - before)
        except Exception:
            logger.exception("The memory of a workload is not known.")
            peaks.append(None)
    return peaks


def _peak(device: torch.device) -> int:
    """The most bytes of a GPU, or of this process, since the last call."""
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return peak
    lines = Path("/proc/self/status").read_text().splitlines()
    Path("/proc/self/clear_refs").write_text("5")
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
