"""Anchors and input sizes to try instead, found by trying them on the objects.

Shape shorthand in this module:

    M: number of objects
    L: number of feature levels
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from anchor_heads.analysis.diagnosis.anchor_levels import AnchorLevels
from anchor_heads.analysis.diagnosis.finding import Case, Suggestion
from anchor_heads.analysis.diagnosis.training_data import Objects

SIZES = "MODEL.ANCHOR_GENERATOR.SIZES"
ASPECT_RATIOS = "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"

# Values are tried on so many objects; what is said about one is counted on all.
SAMPLE = 2000
# Factors of the finest and of the coarsest level's sizes, in half octaves.
HALF_OCTAVES = range(-6, 5)
# Sizes are judged by the share of objects that they do not reach. Each half octave away from the
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
    case: Case, found: np.ndarray, *, enlargements: Sequence[float] = ENLARGEMENTS
) -> Suggestion:
    """Anchor sizes or an input size, or both, that reach most of some unreached objects, and more
    of all objects. The first that do are taken, the least change of the input before others.

    Args:
        found (ndarray): (M,) bool, the objects to reach, at least one.
        enlargements (sequence of float): factors of the input size to try.
    """
    sample, to_reach = (x.sample(SAMPLE) for x in (case.data.objects, case.data.objects[found]))
    unreached = case.levels.reach(sample).num_unreached
    tries = [(1, True), *itertools.product(enlargements, (False, True))]
    for factor, fitted in tries:
        enlarged = sample.enlarged(factor)
        levels = fitted_levels(case.levels, enlarged) if fitted else case.levels
        left = levels.reach(to_reach.enlarged(factor)).num_unreached
        if left <= MOST_LEFT * len(to_reach) and levels.reach(enlarged).num_unreached < unreached:
            changes = _input_sizes(case.cfg, factor) if factor != 1 else {}
            changes |= {SIZES: levels.sizes} if fitted else {}
            return Suggestion(changes, _effect(case, found, levels, factor))
    tried = ["other anchor sizes"]
    if enlargements:
        tried.append(f"images up to {max(enlargements):g} times as large")
    return Suggestion(
        {SIZES: None}, f"{' and '.join(tried).capitalize()} do not reach most of them."
    )


def better_aspect_ratios(case: Case, found: np.ndarray) -> Suggestion:
    """Aspect ratios for objects that no anchor has the shape of, given as a mask (M,)."""
    levels = with_aspect_ratios_of(case.levels, case.data.objects[found])
    changes = {ASPECT_RATIOS: _shared(levels.aspect_ratios)}
    return Suggestion(changes, _effect(case, found, levels))


def rebalance_levels(case: Case) -> Suggestion:
    """Anchor sizes with at most half as many levels without objects, if there are any."""
    levels = fitted_levels(case.levels, case.data.objects)
    reach = levels.reach(case.data.objects)
    empty, now = ((x.objects_per_level == 0).sum() for x in (reach, case.reach))
    if empty > now / 2 or reach.num_unreached > case.reach.num_unreached:
        return Suggestion({SIZES: None})
    effect = f"With this {empty} of {len(levels.names)} levels would have no object."
    return Suggestion({SIZES: levels.sizes}, effect)


def fewer_levels(case: Case) -> Suggestion:
    """The levels from the finest to the coarsest that has objects."""
    used = np.flatnonzero(case.reach.objects_per_level)
    kept, key = slice(used[0], used[-1] + 1), f"{case.kind.node}.IN_FEATURES"
    if len(case.levels.names[kept]) == len(case.levels.names):
        return Suggestion({SIZES: None})
    sizes = [[round(size, 3) for size in level] for level in case.levels.sizes[kept]]
    changes = {key: case.levels.names[kept], SIZES: sizes}
    if len(case.cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS) > 1:
        changes[ASPECT_RATIOS] = case.levels.aspect_ratios[kept]
    return Suggestion(changes)


def fitted_levels(levels: AnchorLevels, objects: Objects) -> AnchorLevels:
    """The same levels with sizes that reach most objects and leave few levels without any.

    The finest and the coarsest level are scaled, those between them in proportion; the sizes
    within a level keep their ratios.
    """
    sample = objects.sample(SAMPLE)

    def cost(factors):
        tried = _scaled(levels, *factors)
        distinct = len(set(tried.sides)) == len(set(levels.sides))
        if sorted(tried.sides) != tried.sides or not distinct:  # levels would not be in order
            return np.inf
        reach = tried.reach(sample)
        return (
            (~reach.reached).mean()
            + COST_OF_EMPTY_LEVELS * (reach.objects_per_level == 0).mean()
            + COST_OF_HALF_OCTAVE * sum(map(abs, factors))
        )

    return _scaled(levels, *min(itertools.product(HALF_OCTAVES, repeat=2), key=cost))


def with_aspect_ratios_of(levels: AnchorLevels, objects: Objects) -> AnchorLevels:
    """The same levels with more aspect ratios: again and again the median of the objects that are
    still missed, of the tall ones or of the wide ones, whichever are more."""
    missed = objects
    for _ in range(MAX_NEW_ASPECT_RATIOS):
        logs = np.log2(missed.sides[:, 1] / missed.sides[:, 0])
        ratio = 2 ** np.median(logs[(logs > 0) == (np.median(logs) > 0)])
        ratios = [sorted({*level, float(f"{ratio:.2g}")}) for level in levels.aspect_ratios]
        levels = replace(levels, aspect_ratios=ratios)
        missed = missed[levels.best_centered_iou(missed) < levels.least_iou]
        if len(missed) <= FEW_LEFT * len(objects):
            break
    return levels


def _scaled(levels, finest, coarsest):
    """Sizes scaled by so many half octaves on the finest and the coarsest of L levels."""
    factors = 2 ** (np.linspace(finest, coarsest, len(levels.sizes)) / 2)
    return replace(
        levels,
        sizes=[
            [_rounded(size * factor) for size in level]
            for level, factor in zip(levels.sizes, factors, strict=True)
        ],
    )


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


def _shared(lists):
    """One list for all levels where they are equal, as Detectron2 takes it."""
    return lists[:1] if all(x == lists[0] for x in lists) else lists


def _effect(case, found, levels, factor=1):
    reach = levels.reach(case.data.objects.enlarged(factor))
    return (
        f"With this {(~reach.reached[found]).sum()} of them would not be reached, and "
        f"{reach.num_unreached} of all objects, now {case.reach.num_unreached}."
    )
