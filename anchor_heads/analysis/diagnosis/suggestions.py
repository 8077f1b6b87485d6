"""Anchors and input sizes to try instead, found by trying them on the objects.

Shape shorthand in this module:

    M: number of objects
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from anchor_heads.analysis.diagnosis.finding import ASPECT_RATIOS, SIZES, DiagnosisInput, Suggestion
from anchor_heads.analysis.diagnosis.preset_anchors import PresetAnchors
from anchor_heads.analysis.diagnosis.training_data import Objects

# Values are tried on so many objects; what is said about one is counted on all.
SAMPLE = 2000
# Factors of the finest and of the coarsest level's sizes, in half octaves.
HALF_OCTAVES = range(-6, 5)
# Sizes are rated by the share of objects that they do not reach. Each half octave away from the
# present ones counts as this share, and all levels being without objects as the second.
COST_OF_HALF_OCTAVE = 0.001
COST_OF_EMPTY_LEVELS = 0.05
# Sizes are worth a suggestion if they leave at most this share unreached; aspect ratios are added
# until they leave the second.
MOST_LEFT = 0.4
FEW_LEFT = 0.1
ENLARGEMENTS = (1.25, 1.5, 2.0, 3.0)
MAX_NEW_ASPECT_RATIOS = 4


def reach_more(
    case: DiagnosisInput, found: np.ndarray, *, enlargements: Sequence[float] = ENLARGEMENTS
) -> Suggestion:
    """Anchor sizes or an input size, or both, that reach most of some unreached objects, and more
    of all objects. The first that do are taken, the least change of the input before others.

    Args:
        case (DiagnosisInput): the config and its data.
        found (ndarray): (M,) bool, the objects to reach, at least one.
        enlargements (sequence of float): factors of the input size to try.
    """
    sample, to_reach = (x.sample(SAMPLE) for x in (case.data.objects, case.data.objects[found]))
    unreached = _num_unreached(case.anchors, sample)
    for factor, fitted in [(1, True), *itertools.product(enlargements, (False, True))]:
        enlarged = sample.enlarged(factor)
        anchors = fitted_sizes(case.anchors, enlarged) if fitted else case.anchors
        left = _num_unreached(anchors, to_reach.enlarged(factor))
        if left <= MOST_LEFT * len(to_reach) and _num_unreached(anchors, enlarged) < unreached:
            changes = _input_sizes(case.cfg, factor) if factor != 1 else {}
            changes |= {SIZES: anchors.sizes} if fitted else {}
            return Suggestion(changes, _effect(case, found, anchors, factor))
    tried = ["other anchor sizes"]
    if enlargements:
        tried.append(f"images up to {max(enlargements):g} times as large")
    return Suggestion(
        {SIZES: None}, f"{' and '.join(tried).capitalize()} do not reach most of them."
    )


def better_aspect_ratios(case: DiagnosisInput, found: np.ndarray) -> Suggestion:
    """Aspect ratios for objects that no anchor has the shape of, given as a mask (M,)."""
    anchors = with_aspect_ratios_of(case.anchors, case.data.objects[found])
    ratios = anchors.aspect_ratios
    shared = ratios[:1] if all(x == ratios[0] for x in ratios) else ratios
    return Suggestion({ASPECT_RATIOS: shared}, _effect(case, found, anchors))


def rebalance_levels(case: DiagnosisInput) -> Suggestion:
    """Anchor sizes with at most half as many levels without objects, if there are any."""
    anchors = fitted_sizes(case.anchors, case.data.objects)
    coverage = anchors.coverage(case.data.objects)
    empty, now = ((~x.levels.any(axis=0)).sum() for x in (coverage, case.coverage))
    if empty > now / 2 or coverage.reached.sum() < case.coverage.reached.sum():
        return Suggestion({SIZES: None})
    effect = f"With this {empty} of {len(anchors.levels)} levels would have no object."
    return Suggestion({SIZES: anchors.sizes}, effect)


def fewer_levels(case: DiagnosisInput) -> Suggestion:
    """The levels from the finest to the coarsest that has objects."""
    used = np.flatnonzero(case.coverage.levels.any(axis=0))
    kept, anchors = slice(used[0], used[-1] + 1), case.anchors
    if len(anchors.levels[kept]) == len(anchors.levels):
        return Suggestion({SIZES: None})
    sizes = [[round(size, 3) for size in level] for level in anchors.sizes[kept]]
    changes = {f"{case.node}.IN_FEATURES": anchors.levels[kept], SIZES: sizes}
    if len(case.get(ASPECT_RATIOS)) > 1:
        changes[ASPECT_RATIOS] = anchors.aspect_ratios[kept]
    return Suggestion(changes)


def fitted_sizes(anchors: PresetAnchors, objects: Objects) -> PresetAnchors:
    """The same anchors with sizes that reach most objects and leave few levels without any.

    The finest and the coarsest level are scaled, those between them in proportion; the sizes
    within a level keep their ratios.
    """
    sample = objects.sample(SAMPLE)

    def cost(factors):
        tried = _scaled(anchors, *factors)
        distinct = len(set(tried.smallest)) == len(set(anchors.smallest))
        if sorted(tried.smallest) != tried.smallest or not distinct:  # levels would not be in order
            return np.inf
        coverage = tried.coverage(sample)
        return (
            (~coverage.reached).mean()
            + COST_OF_EMPTY_LEVELS * (~coverage.levels.any(axis=0)).mean()
            + COST_OF_HALF_OCTAVE * sum(map(abs, factors))
        )

    return _scaled(anchors, *min(itertools.product(HALF_OCTAVES, repeat=2), key=cost))


def with_aspect_ratios_of(anchors: PresetAnchors, objects: Objects) -> PresetAnchors:
    """The same anchors with more aspect ratios: again and again the median of the objects that are
    still missed, of the tall ones or of the wide ones, whichever are more."""
    missed = objects
    for _ in range(MAX_NEW_ASPECT_RATIOS):
        logs = np.log2(missed.sides[:, 1] / missed.sides[:, 0])
        ratio = 2 ** np.median(logs[(logs > 0) == (np.median(logs) > 0)])
        ratios = [sorted({*level, float(f"{ratio:.2g}")}) for level in anchors.aspect_ratios]
        anchors = replace(anchors, aspect_ratios=ratios)
        coverage = anchors.coverage(missed)
        missed = missed[coverage.centered_iou < coverage.threshold]
        if len(missed) <= FEW_LEFT * len(objects):
            break
    return anchors


def _num_unreached(anchors, objects) -> int:
    return int((~anchors.coverage(objects).reached).sum())


def _scaled(anchors, finest, coarsest):
    """Sizes scaled by so many half octaves on the finest and on the coarsest level."""
    factors = 2 ** (np.linspace(finest, coarsest, len(anchors.sizes)) / 2)
    levels = zip(anchors.sizes, factors, strict=True)
    sizes = [[_rounded(size * factor) for size in level] for level, factor in levels]
    return replace(anchors, sizes=sizes)


def _rounded(size):
    return round(float(size)) if size >= 10 else round(float(size), 1)


def _input_sizes(cfg, factor):
    changes = {}
    for key in ("MIN_SIZE_TRAIN", "MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST"):
        sizes = cfg.INPUT[key]
        several = isinstance(sizes, (list, tuple))
        scaled = tuple(round(factor * x) for x in (sizes if several else [sizes]))
        changes[f"INPUT.{key}"] = scaled if several else scaled[0]
    return changes


def _effect(case, found, anchors, factor=1):
    unreached = ~anchors.coverage(case.data.objects.enlarged(factor)).reached
    return (
        f"With this {unreached[found].sum()} of them would not be reached, and {unreached.sum()} "
        f"of all objects, now {(~case.coverage.reached).sum()}."
    )
