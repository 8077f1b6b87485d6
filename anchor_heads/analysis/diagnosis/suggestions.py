"""Anchors and input sizes to try instead, found by trying them on the objects.

Shape shorthand in this module:

    M: number of objects
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from anchor_heads.analysis.diagnosis.diagnosis_input import DiagnosisInput
from anchor_heads.analysis.diagnosis.preset_anchors import ASPECT_RATIOS, SAMPLE, SIZES

# Sizes are worth a suggestion if they leave at most this share of some objects unreached, and so
# much less than now of all.
MOST_LEFT, LEAST_GAIN = 0.4, 0.2
ENLARGEMENTS = (1.25, 1.5, 2.0, 3.0)
MOST_ENLARGED = 2.0  # of what is stored; more shows the network nothing new


class Suggestion(NamedTuple):
    """What to write instead."""

    changes: Mapping[str, object]
    """Values of config keys; None where a key should change, but no value could be computed."""
    effect: str = ""
    """What was counted with these values, a sentence; or nothing."""


def reach_more(
    case: DiagnosisInput, found: np.ndarray, enlargements: Sequence[float] = ENLARGEMENTS
) -> Suggestion:
    """Anchor sizes or an input size, or both, that reach most of some unreached objects, and more
    of all objects. The first that do are taken, the least change of the input before others.

    Predicted anchors start from the sizes: if these reach most objects, those of the finest level
    stay, for sizes that suit the smallest objects are a worse start for all others.

    Args:
        case (DiagnosisInput): the config and its data.
        found (ndarray): (M,) bool, the objects to reach, at least one.
        enlargements (sequence of float): factors of the input size to try.
    """
    keep_finest = case.strategy.starts_from_sizes and case.coverage.reached.mean() >= 0.5
    enlargements = [x for x in enlargements if x * case.data.scale <= MOST_ENLARGED]
    sample, to_reach = (x.sample(SAMPLE) for x in (case.data.objects, case.data.objects[found]))
    most = (1 - LEAST_GAIN) * (~case.coverage.reached).sum()
    for factor, fitted in [(1, True), *itertools.product(enlargements, (False, True))]:
        enlarged = sample.enlarged(factor)
        anchors = case.anchors.fitted_sizes(enlarged, keep_finest) if fitted else case.anchors
        if (~anchors.coverage(to_reach.enlarged(factor)).reached).mean() > MOST_LEFT:
            continue
        unreached = ~anchors.coverage(case.data.objects.enlarged(factor)).reached
        if unreached.sum() <= most:
            changes = _input_sizes(case.cfg, factor) if factor != 1 else {}
            changes |= {SIZES: anchors.sizes} if fitted else {}
            return Suggestion(changes, _effect(case, found, unreached, factor))
    tried = ["other anchor sizes"]
    if enlargements:
        tried.append(f"images up to {max(enlargements):g} times as large")
    return Suggestion(
        {SIZES: None}, f"{' and '.join(tried).capitalize()} do not reach most of them."
    )


def better_aspect_ratios(case: DiagnosisInput, found: np.ndarray) -> Suggestion:
    """Aspect ratios for objects that no anchor has the shape of, given as a mask (M,)."""
    anchors = case.anchors.with_aspect_ratios_of(case.data.objects[found])
    ratios = anchors.aspect_ratios
    shared = ratios[:1] if all(x == ratios[0] for x in ratios) else ratios
    unreached = ~anchors.coverage(case.data.objects).reached
    return Suggestion({ASPECT_RATIOS: shared}, _effect(case, found, unreached))


def rebalance_levels(case: DiagnosisInput) -> Suggestion:
    """Anchor sizes with at most half as many levels without objects, if there are any."""
    anchors = case.anchors.fitted_sizes(case.data.objects)
    coverage = anchors.coverage(case.data.objects)
    empty, now = ((~x.levels.any(axis=0)).sum() for x in (coverage, case.coverage))
    if empty > now / 2 or coverage.reached.sum() < case.coverage.reached.sum():
        return Suggestion({SIZES: None})
    effect = f"With this {empty} of {len(anchors.sizes)} levels would have no object."
    return Suggestion({SIZES: anchors.sizes}, effect)


def fewer_levels(case: DiagnosisInput) -> Suggestion:
    """The levels from the finest to the coarsest that has objects."""
    anchors, levels = case.anchors, case.strategy.in_features
    used = np.flatnonzero(case.coverage.levels.any(axis=0))
    kept = slice(used[0], used[-1] + 1)
    if levels[kept] == levels:
        return Suggestion({SIZES: None})
    node = "RETINANET" if case.one_stage else "RPN"
    sizes = [[round(size, 3) for size in level] for level in anchors.sizes[kept]]
    changes = {f"MODEL.{node}.IN_FEATURES": levels[kept], SIZES: sizes}
    if len(case.get(ASPECT_RATIOS)) > 1:
        changes[ASPECT_RATIOS] = anchors.aspect_ratios[kept]
    return Suggestion(changes)


def _input_sizes(cfg, factor):
    changes = {}
    for key in ("MIN_SIZE_TRAIN", "MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST"):
        sizes = cfg.INPUT[key]
        several = isinstance(sizes, (list, tuple))
        scaled = tuple(round(factor * x) for x in (sizes if several else [sizes]))
        changes[f"INPUT.{key}"] = scaled if several else scaled[0]
    return changes


def _effect(case, found, unreached, factor=1):
    pixels = f" Images have {factor**2:.3g} times as many pixels." if factor != 1 else ""
    return (
        f"With this {unreached[found].sum()} of them would not be reached, and {unreached.sum()} "
        f"of all objects, now {(~case.coverage.reached).sum()}.{pixels}"
    )
