"""Models in turn, and the ratios between them."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from torch import nn
from torch.utils.benchmark import timer  # waits for the GPU

from anchor_heads.analysis.benchmark.memory import peak_memory
from anchor_heads.analysis.benchmark.parts import OTHER, Stopwatch, run_by_part
from anchor_heads.analysis.benchmark.runtimes import RUNTIMES
from anchor_heads.analysis.benchmark.workload import (
    Workload,
    build_measured_model,
    kept_locations,
    make_batch,
    run,
)
from anchor_heads.anchor_generation.strategy import get_anchor_strategy

WARMUP_TURNS = 2
WHOLE = "whole"


def measure(
    cfgs: dict[str, CfgNode],
    workloads: Sequence[Workload],
    repeats: int,
    runtimes: Sequence[str] = (),
) -> list[dict]:
    """Measure models side by side.

    Args:
        cfgs (dict[str, CfgNode]): the models' configs by name.
        workloads (sequence of Workload): what they do. If no model predicts locations, those that
            differ in the share of them are one.
        repeats (int): turns, after WARMUP_TURNS to warm up.
        runtimes (sequence of str): of :data:`RUNTIMES`, for inference besides eager PyTorch; they
            are measured as a whole.

    Returns:
        list[dict]: for each workload its fields, and as "models" by name: "seconds" of the whole
        and of each part in each turn; "ratios" of these to the "baseline", the first model of the
        same kind (one-stage, proposals alone, or two-stage), as quartiles; "boxes" that came out;
        "peak_memory", see :func:`peak_memory`, where it can be measured. All ready for JSON. A
        model that the GPU has no memory for is left out.

    Raises:
        TypeError, ValueError: if a model cannot be measured.
    """
    if any(x.training for x in workloads):
        _check_annotations(cfgs)
    models = {name: build_measured_model(x, workloads[0].image_size) for name, x in cfgs.items()}
    if not any(get_anchor_strategy(model).predicts_locations for model in models.values()):
        workloads = list(dict.fromkeys(x._replace(kept=None) for x in workloads))
    results = [_measure(models, workload, repeats, runtimes) for workload in workloads]
    for name, cfg in cfgs.items():
        modules = sorted({type(x).__module__ for x in models.pop(name).modules()})
        peaks = peak_memory(cfg, workloads, modules) or []
        for result, peak in zip(results, peaks, strict=False):
            if name in result["models"]:
                result["models"][name]["peak_memory"] = peak
    return results


def _check_annotations(cfgs):
    names = [name for name, x in cfgs.items() if x.MODEL.MASK_ON or x.MODEL.KEYPOINT_ON]
    if names:
        raise ValueError(
            f"{', '.join(names)}: the objects to train on have no masks and no keypoints. Add "
            "MODEL.MASK_ON False MODEL.KEYPOINT_ON False."
        )


def _measure(models, workload, repeats, runtimes) -> dict:
    """In every turn all models are run whole, and then all models part by part."""
    with ExitStack() as contexts:
        for model in models.values():
            contexts.enter_context(kept_locations(model, workload))
        measured = _warmed_up(models, workload, runtimes)
        turns = {name: [] for name in measured}
        for _ in range(repeats):
            whole = {name: _seconds(x.run) for name, x in measured.items()}
            for name, x in measured.items():
                turns[name].append({WHOLE: whole[name], **x.seconds_by_part()})
    seconds = {
        name: {part: [turn[part] for turn in values] for part in values[0]}
        for name, values in turns.items()
    }
    results, baselines = {}, {}
    for name, x in measured.items():
        baseline = baselines.setdefault(x.kind, name)
        results[name] = {
            "seconds": seconds[name],
            "baseline": baseline,
            "ratios": _ratios(seconds[name], seconds[baseline]) if name != baseline else {},
        }
        if x.boxes is not None:
            results[name]["boxes"] = x.boxes
    return {**workload._asdict(), "models": results}


def _warmed_up(models, workload, runtimes) -> dict[str, "_MeasuredModel"]:
    measured = {}
    for name, model in models.items():
        for runtime in [None, *([] if workload.training else runtimes)]:
            try:
                x = _MeasuredModel(model, workload, runtime)
                for _ in range(WARMUP_TURNS):
                    x.run()
                    x.seconds_by_part()
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
            else:
                measured[f"{name} ({runtime})" if runtime else name] = x
    return measured


class _MeasuredModel:
    """A model with its batch, in a runtime.

    Attributes:
        run (callable): predicts, or takes a training step.
        kind (tuple): equal for models that do the same.
        boxes (int or None): that came out, in inference.
    """

    def __init__(self, model: nn.Module, workload: Workload, runtime: str | None):
        self._model, self._workload = model.train(workload.training), workload
        self._batch, self._runtime = make_batch(model, workload), runtime
        strategy = get_anchor_strategy(model)
        self.kind = strategy.one_stage, isinstance(model, GeneralizedRCNN)
        self.boxes = None
        if runtime is not None:
            self.run = partial(RUNTIMES[runtime](model, self._batch), self._batch)
            return
        self.run = partial(run, model, self._batch, workload.dtype)
        if not workload.training:
            self.boxes = sum(len(x) for output in self.run() for x in output.values())

    def seconds_by_part(self) -> dict[str, float]:
        """Parts, each before its own parts; what is no part comes last."""
        if self._runtime is not None:
            return {}
        stopwatch = Stopwatch()
        run_by_part(self._model, self._batch, self._workload.dtype, stopwatch)
        totals = Counter()
        for name, seconds in stopwatch.seconds.items():
            totals[name.split(":")[0]] += seconds
        result = {}
        for part in sorted(totals, key=lambda x: x == OTHER):
            result[part] = totals[part]
            result |= {x: y for x, y in stopwatch.seconds.items() if x.startswith(f"{part}:")}
        return result


def _seconds(function) -> float:
    start = timer()
    function()
    return timer() - start


def _ratios(ours, theirs) -> dict[str, list[float]]:
    return {
        part: np.percentile(np.divide(ours[part], theirs[part]), [25, 50, 75]).tolist()
        for part in ours
        if part in theirs
    }
