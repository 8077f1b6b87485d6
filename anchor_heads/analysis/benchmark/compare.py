"""Models in turn, and the ratios between them."""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import nn
from torch.utils.benchmark import timer  # waits for the GPU

from anchor_heads.analysis.benchmark.locations import (
    given_locations,
    mean_blob_cells,
    predicts_locations,
)
from anchor_heads.analysis.benchmark.memory import peak_memory
from anchor_heads.analysis.benchmark.parts import (
    DEFORMABLE,
    GUIDE,
    JUDGING,
    OTHER,
    Stopwatch,
    run_by_part,
)
from anchor_heads.analysis.benchmark.workload import (
    Workload,
    build_timed_model,
    detect,
    make_image,
    make_input,
    run,
)
from anchor_heads.anchor_generation.strategy import get_anchor_strategy

WARMUP_TURNS = 2
WHOLE = "whole"
JUDGING_DENSE = "judging, dense"


def compare(cfgs: dict[str, CfgNode], workloads: Sequence[Workload], repeats: int) -> list[dict]:
    """Measure models, the first beside the others.

    Args:
        cfgs (dict[str, CfgNode]): by name, the configs of dense detectors, GeneralizedRCNN or
            ProposalNetwork.
        workloads (sequence of Workload): what they do, all with images of one size. If no model
            predicts locations, those that differ in the share of them are one.
        repeats (int): turns, after WARMUP_TURNS to warm up.

    Returns:
        list[dict]: what was measured for each workload, ready for JSON: "objects" or "kept" where
        it says so, what :func:`compare_times` returns, and, where it can be measured, "peak_memory"
        of each model, see :func:`peak_memory`.

    Raises:
        TypeError, ValueError: if a model cannot be measured.
    """
    image = make_image(*workloads[0].image_size)
    models = {name: build_timed_model(cfg, image) for name, cfg in cfgs.items()}
    if not any(map(predicts_locations, models.values())):
        workloads = list(dict.fromkeys(x._replace(kept=None) for x in workloads))
    runs = []
    for workload in workloads:
        conditions = {"objects": workload.num_objects, "kept": workload.kept}
        run_ = {name: value for name, value in conditions.items() if value is not None}
        runs.append(run_ | compare_times(models, workload, repeats))
    for name, cfg in cfgs.items():
        for run_, peaks in zip(runs, peak_memory(cfg, workloads) or [], strict=False):
            run_.setdefault("peak_memory", {})[name] = peaks
    return runs


def compare_times(models: dict[str, nn.Module], workload: Workload, repeats: int) -> dict:
    """Time models and their parts.

    In every turn all models are run whole, and then all models part by part.

    Args:
        models (dict[str, nn.Module]): by name, see :func:`compare`.
        workload, repeats: see there.

    Returns:
        dict: "seconds", for each model those of the whole, of its parts and of parts of these.
        "ratios", for the first model over each other those of the same parts, and for a model by
        itself those between its parts. Each of these has the quartiles (the second is the median)
        and the value of each turn. When detecting, "boxes" is how many each model found; with
        given locations there are "mean_blob_cells", and how far judging some locations is from
        judging all, "largest_difference" of each model.
    """
    inputs = {
        name: make_input(model.train(workload.training), workload) for name, model in models.items()
    }
    with ExitStack() as stack:
        given = [
            stack.enter_context(given_locations(model, workload.kept)) for model in models.values()
        ]
        ways = {
            name: ways_to_judge(model, inputs[name])
            for name, model in models.items()
            if predicts_locations(model) and not workload.training
        }
        seconds = take_turns(models, inputs, ways, repeats)
        result = {"seconds": _summaries(seconds), "ratios": _summaries(_ratios(seconds))}
        if not workload.training:
            result["boxes"] = {name: len(detect(x, inputs[name])) for name, x in models.items()}
    maps = [x for maps in given for x in maps.values()]
    if maps:
        result["mean_blob_cells"] = mean_blob_cells(maps)
    if ways:
        result["largest_difference"] = {name: _largest_difference(*x) for name, x in ways.items()}
    return result


def take_turns(
    models: dict[str, nn.Module],
    inputs: dict[str, dict],
    ways: dict[str, tuple[Callable, Callable]],
    repeats: int,
) -> dict[str, dict[str, np.ndarray]]:
    """(repeats,) seconds of each part of each model, and of judging all locations.

    Args:
        models (dict[str, nn.Module]): by name.
        inputs (dict[str, dict]): what each takes.
        ways (dict[str, tuple]): the :func:`ways_to_judge` of those that have them.
        repeats (int): turns, after WARMUP_TURNS to warm up.
    """
    turns = {name: [] for name in models}
    for _ in range(WARMUP_TURNS + repeats):
        whole = {name: _seconds(run, model, inputs[name]) for name, model in models.items()}
        for name, model in models.items():
            stopwatch = Stopwatch()
            run_by_part(model, inputs[name], stopwatch)
            turn = {WHOLE: whole[name], **_with_totals(stopwatch.seconds)}
            if name in ways:
                _, dense = ways[name]
                turn[JUDGING_DENSE] = _seconds(dense)
            turns[name].append(turn)
    return {
        name: {part: np.array([x[part] for x in values[WARMUP_TURNS:]]) for part in values[0]}
        for name, values in turns.items()
    }


def _seconds(function, *arguments) -> float:
    start = timer()
    function(*arguments)
    return timer() - start


def _with_totals(seconds: dict[str, float]) -> dict[str, float]:
    """Parts, each before its own parts; what is no part comes last."""
    totals = Counter()
    for name, value in seconds.items():
        totals[name.split(":")[0]] += value
    result = {}
    for part in sorted(totals, key=lambda x: x == OTHER):
        result[part] = totals[part]
        result |= {name: x for name, x in seconds.items() if name.startswith(f"{part}:")}
    return result


def _ratios(seconds) -> dict[str, dict[str, np.ndarray]]:
    first, *others = seconds
    ratios = {
        f"{first} / {other}": {
            part: value / seconds[other][part]
            for part, value in seconds[first].items()
            if part in seconds[other]
        }
        for other in others
    }
    for name, parts in seconds.items():
        if JUDGING_DENSE in parts:
            guide, sparse, dense = (parts[x] for x in (GUIDE, JUDGING, JUDGING_DENSE))
            ratios[name] = {
                "judging, sparse / dense": sparse / dense,
                "head, sparse / dense": (guide + sparse) / (guide + dense),
            }
        elif DEFORMABLE in parts:
            ratios[name] = {"deformable convolutions / whole": parts[DEFORMABLE] / parts[WHOLE]}
    return ratios


def _summaries(values: dict[str, dict[str, np.ndarray]]) -> dict:
    return {
        name: {
            part: {"quartiles": np.percentile(x, [25, 50, 75]).tolist(), "turns": x.tolist()}
            for part, x in parts.items()
        }
        for name, parts in values.items()
    }


@torch.no_grad()
def ways_to_judge(model: nn.Module, model_input: dict) -> tuple[Callable, Callable]:
    """Two ways to have what a model says of the anchors that are wanted in an image: judging these,
    or judging all anchors and picking them."""
    strategy = get_anchor_strategy(model)
    predictions = strategy.head(strategy.features(strategy.preprocess(model_input["image"])))
    return tuple(
        partial(strategy.predict_at_kept_locations, predictions, sparse=sparse)
        for sparse in (True, False)
    )


def _largest_difference(sparse, dense) -> float:
    """Between two ways to judge, relative to a level's largest number where that exceeds 1."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        levels = zip(sparse(), dense(), strict=True)
    pairs = [pair for level in levels for pair in zip(*level, strict=True)]
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1)).item() for a, b in pairs)
