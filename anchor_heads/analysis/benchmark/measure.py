"""Models in turn, and the ratios between them."""

import copy
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from torch import nn
from torch.utils.benchmark import timer  # waits for the GPU

from anchor_heads._private import compiled_for_every_size
from anchor_heads.analysis.benchmark.memory import peak_memory
from anchor_heads.analysis.benchmark.parts import seconds_by_part
from anchor_heads.analysis.benchmark.workload import (
    Workload,
    build_measured_model,
    kept_locations,
    make_batch,
    run,
)
from anchor_heads.anchor_generation.strategy import get_anchor_strategy
from anchor_heads.errors import first_line
from anchor_heads.export import SUFFIXES, ExportedPredictor, compile_model, export_model

logger = logging.getLogger(__name__)

WARMUP_TURNS = 2
WHOLE = "whole"
# What runs a model, besides eager PyTorch: a format of exported files, or "compile", which also
# trains; and whether in bfloat16, which computes in it what autocast does.
RUNTIMES = {
    "onnxruntime": ("onnx", False),
    "torchscript": ("torchscript", False),
    "torchscript-bfloat16": ("torchscript", True),
    "torch-export": ("torch-export", False),
    "compile": ("compile", False),
    "compile-bfloat16": ("compile", True),
}


def measure(
    cfgs: dict[str, CfgNode],
    workloads: Sequence[Workload],
    repeats: int,
    runtimes: Sequence[str] = (),
    save: Callable[[list[dict]], object] = lambda results: None,
) -> list[dict]:
    """Measure models side by side.

    A model that fails in a workload, as for lack of memory, is left out there.

    Args:
        cfgs (dict[str, CfgNode]): the models' configs by name.
        workloads (sequence of Workload): what they do. If no model predicts locations, those that
            differ in the share of them are one.
        repeats (int): turns, after WARMUP_TURNS to warm up.
        runtimes (sequence of str): of RUNTIMES, besides eager PyTorch, for training those that
            compile; they are measured as a whole.
        save (callable): takes what is returned, as far as it is known: after each workload, and
            after the memory of each model.

    Returns:
        list[dict]: for each workload its fields, and as "models" by name: "seconds" of the whole
        and of each part in each turn; "ratios" of these to the "baseline", the first model of the
        same kind (one-stage, proposals alone, or two-stage), as quartiles; "peak_memory" of the
        whole in bytes, where it can be measured. As "failed" by name the error of each model that
        is left out. All ready for JSON.

    Raises:
        TypeError, ValueError: if a model cannot be measured.
    """
    with_masks = [name for name, x in cfgs.items() if x.MODEL.MASK_ON or x.MODEL.KEYPOINT_ON]
    if with_masks and any(x.training for x in workloads):
        raise ValueError(
            f"{', '.join(with_masks)}: the objects to train on have no masks and no keypoints. Add "
            "MODEL.MASK_ON False MODEL.KEYPOINT_ON False."
        )
    models = {name: build_measured_model(x, workloads[0].image_size) for name, x in cfgs.items()}
    if not any(get_anchor_strategy(model).predicts_locations for model in models.values()):
        workloads = list(dict.fromkeys(x._replace(kept=None) for x in workloads))
    results = []
    for workload in workloads:
        results.append(_measure(models, workload, repeats, runtimes))
        save(results)
    for name, cfg in cfgs.items():
        modules = sorted({type(x).__module__ for x in models.pop(name).modules()})
        peaks = peak_memory(cfg, workloads, modules)
        for result, peak in zip(results, peaks, strict=True):
            if name in result["models"] and peak is not None:
                result["models"][name]["peak_memory"] = {WHOLE: peak}
        save(results)
    return results


def _measure(models, workload, repeats, runtimes) -> dict:
    """In every turn all models are run whole, and then all models part by part."""
    functions, kinds, turns, failed = {}, {}, {}, {}
    if workload.training:
        runtimes = [x for x in runtimes if RUNTIMES[x][0] == "compile"]
    with ExitStack() as contexts:
        contexts.enter_context(compiled_for_every_size())
        for name, model in models.items():
            contexts.enter_context(kept_locations(model, workload))
            one_stage = get_anchor_strategy(model).one_stage
            for runtime in [None, *runtimes]:
                label = f"{name} ({runtime})" if runtime else name
                kinds[label] = one_stage, isinstance(model, GeneralizedRCNN)
                try:
                    functions[label] = _functions(model, workload, runtime)
                except (TypeError, ValueError):  # of the command line
                    raise
                except Exception as error:  # an export may fail in any way
                    _leave_out(label, error, failed)
                    continue
                for _ in range(WARMUP_TURNS):
                    _turn({label: functions[label]}, failed)
        for _ in range(repeats):
            for label, seconds in _turn(functions, failed).items():
                turns.setdefault(label, []).append(seconds)
    results, baselines = {}, {}
    for name in [x for x in functions if x not in failed]:
        seconds = {part: [turn[part] for turn in turns[name]] for part in turns[name][0]}
        baseline = baselines.setdefault(kinds[name], name)
        ratios = _ratios(seconds, results[baseline]["seconds"]) if name != baseline else {}
        results[name] = {"seconds": seconds, "baseline": baseline, "ratios": ratios}
    return {**workload._asdict(), "models": results, "failed": failed}


def _turn(
    functions: dict[str, tuple[Callable, Callable]], failed: dict[str, str]
) -> dict[str, dict[str, float]]:
    """The seconds of each model, whole and by part; of models that fail now the error is added to
    ``failed``, and those in it are left out."""
    results = {}
    for whole in (True, False):
        for name, (run_whole, run_by_part) in functions.items():
            if name in failed:
                continue
            try:
                seconds = {WHOLE: _seconds(run_whole)} if whole else run_by_part()
            except Exception as error:
                _leave_out(name, error, failed)
            else:
                results.setdefault(name, {}).update(seconds)
    return {name: seconds for name, seconds in results.items() if name not in failed}


def _leave_out(name: str, error: Exception, failed: dict[str, str]) -> None:
    logger.error(f"{name} failed and is left out of this workload.", exc_info=error)
    failed[name] = f"{type(error).__name__}: {first_line(error)}"


def _functions(model, workload, runtime) -> tuple[Callable, Callable]:
    """What runs a model as a whole, and what returns the seconds of its parts."""
    batch = make_batch(model.train(workload.training), workload)
    if runtime:
        return in_runtime(runtime, model, batch), dict
    return tuple(partial(x, model, batch, workload.dtype) for x in (run, seconds_by_part))


def in_runtime(name: str, model: nn.Module, batch: list[dict]) -> Callable[[], object]:
    """What runs a model on a batch with one of RUNTIMES, made for the size of its images.

    Raises:
        ValueError: if a batch of several images is for an exported file.
    """
    format, bf16 = RUNTIMES[name]
    model = copy.deepcopy(model)
    if format == "compile":
        compile_model(model, dynamic=False)
        return partial(run, model, batch, "bfloat16" if bf16 else "float32")
    if len(batch) > 1:
        raise ValueError("exported models take one image: --runtime needs --batch-size 1")
    image = batch[0]["image"].numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"model{SUFFIXES[format]}")
        metadata = {"categories": [], "min_size_test": 0, "max_size_test": 0}
        export_model(model, path, format, metadata, image.shape[1:], bf16=bf16)
        return partial(ExportedPredictor(path).run, image)


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
