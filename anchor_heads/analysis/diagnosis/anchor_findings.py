"""Objects that the anchors do not reach, and anchors that have nothing to learn."""

import math

import numpy as np

from anchor_heads.analysis.diagnosis.finding import (
    ASPECT_RATIOS,
    ERROR,
    NOTE,
    SIZES,
    WARNING,
    DiagnosisInput,
    Finding,
    Suggestion,
    by_share,
    of,
)
from anchor_heads.analysis.diagnosis.suggestions import (
    better_aspect_ratios,
    fewer_levels,
    reach_more,
    rebalance_levels,
)
from anchor_heads.analysis.recipe import recipe


def refused_model(case: DiagnosisInput) -> Finding | None:
    """A config that no model can be built from."""
    if not case.build_error:
        return None
    return Finding(ERROR, f"The model cannot be built: {case.build_error}", {})


def impossible_shapes(case: DiagnosisInput) -> Finding | None:
    """Anchor sizes and aspect ratios that no box has."""
    values = {key: np.hstack(case.get(key)) for key in (SIZES, ASPECT_RATIOS)}
    wrong = {key: x[~(x > 0)].tolist() for key, x in values.items() if not (x > 0).all()}
    if not wrong:
        return None
    found = " and ".join(
        f"{key} has {', '.join(map('{:g}'.format, x))}" for key, x in wrong.items()
    )
    return Finding(
        ERROR,
        f"{found}: no box has such sides. All must be above 0.",
        {"count": sum(map(len, wrong.values()))},
        Suggestion(dict.fromkeys(wrong)),
    )


# A start so many times higher or wider than the objects is worth a change.
START_TOLERANCE = 1.5


def other_shape_at_the_start(case: DiagnosisInput) -> Finding | None:
    """Predicted anchors that start from another shape than most objects have."""
    if case.strategy is None or len(case.data.objects) == 0:
        return None
    changes = recipe(case.strategy, case.data.objects.sides)
    key = next((key for key in changes if key.endswith("BASE_ASPECT_RATIO")), None)
    if key is None:
        return None
    start, median = case.get(key), changes[key]
    if max(start / median, median / start) <= START_TOLERANCE:
        return None
    return Finding(
        WARNING,
        f"Anchors start {start:g} times as high as wide, but in the median objects are {median:g} "
        "times as high as wide: in a short training many shapes are not learned.",
        {"start": start, "median": median},
        Suggestion({key: value for key, value in changes.items() if case.get(key) != value}),
    )


# An unreached object has one cause, the first that holds: its size, its shape, its place.


def small_objects(case: DiagnosisInput) -> Finding | None:
    """Objects that are too small for every anchor."""
    if not _reached_by_iou(case):
        return None
    limit = _size_limits(case)[0]
    found = ~case.coverage.reached & (case.data.objects.sizes < limit)
    return _unreached(
        case,
        found,
        f"are smaller than {limit:.1f} pixels (square root of area), so that even the smallest "
        f"anchor, {min(map(min, case.anchors.sizes)):g},",
        lambda: reach_more(case, found),
    )


def large_objects(case: DiagnosisInput) -> Finding | None:
    """Objects that are too large for every anchor."""
    if not _reached_by_iou(case):
        return None
    limit = _size_limits(case)[1]
    found = ~case.coverage.reached & (case.data.objects.sizes > limit)
    return _unreached(
        case,
        found,
        f"are larger than {limit:.1f} pixels (square root of area), so that even the largest "
        f"anchor, {max(map(max, case.anchors.sizes)):g},",
        lambda: reach_more(case, found, enlargements=()),
    )


def aspect_ratios(case: DiagnosisInput) -> Finding | None:
    """Objects of a fitting size that no anchor has the shape of."""
    if not _reached_by_iou(case):
        return None
    found = _of_fitting_size(case) & (case.coverage.centered_iou < case.coverage.threshold)
    return _unreached(
        case,
        found,
        f"have proportions that no anchor has ({_proportions(case.data.objects[found])}), so that "
        "even one around their centre",
        lambda: better_aspect_ratios(case, found),
    )


def objects_between_locations(case: DiagnosisInput) -> Finding | None:
    """Objects that an anchor would fit, were there one at their place."""
    if not _reached_by_iou(case):
        return None
    found = _of_fitting_size(case) & (case.coverage.centered_iou >= case.coverage.threshold)
    return _unreached(
        case,
        found,
        "lie between locations: an anchor around their centre would fit, but the nearest one",
        lambda: reach_more(case, found),
    )


def objects_without_location(case: DiagnosisInput) -> Finding | None:
    """Objects whose shape no location learns, where IoU does not decide."""
    if case.anchors is None or _reached_by_iou(case):
        return None
    found = ~case.coverage.reached
    return by_share(
        found.sum(),
        len(found),
        "objects",
        "have no location inside them, near their centre and on a level of their size: "
        f"{case.strategy.consequence}",
        lambda: reach_more(case, found),
    )


def levels_without_objects(case: DiagnosisInput) -> Finding | None:
    """Levels that no object belongs to."""
    if case.anchors is None or len(case.data.objects) == 0:
        return None
    empty = ~case.coverage.levels.any(axis=0)
    count, total = int(empty.sum()), len(empty)
    if count == 0:
        return None
    most = count > total / 2
    names = ", ".join(np.array(case.anchors.levels)[empty])
    return Finding(
        WARNING if most else NOTE,
        f"{of(count, total, 'levels')} have no object to learn from ({names}), only background.",
        {"count": count, "total": total},
        rebalance_levels(case) if most else fewer_levels(case),
    )


def crowded_images(case: DiagnosisInput) -> Finding | None:
    """Images with fewer anchors than their objects need candidates."""
    if case.anchors is None or not case.strategy.candidates_key:
        return None
    candidates = case.strategy.candidates_per_object
    objects = case.data.objects_per_image
    anchors = case.anchors.anchors_per_image(case.data.image_sizes)
    crowded = objects * candidates > anchors

    def suggest():
        largest = int((anchors / objects)[crowded].min())
        return Suggestion({case.strategy.candidates_key: max(1, largest)})

    return by_share(
        crowded.sum(),
        len(crowded),
        "images",
        f"have fewer anchors than the {candidates} candidates of each of their objects (up to "
        f"{objects.max(initial=0)} in an image): objects must share anchors",
        suggest,
        least_share=0,
    )


def config_of_another_method(case: DiagnosisInput) -> Finding | None:
    """Values that suit another method and spoil the training by this one."""
    problems = case.strategy.config_problems() if case.strategy else []
    if not problems:
        return None
    changes = {key: value for problem in problems for key, value in problem.changes.items()}
    sentence = " ".join(problem.sentence for problem in problems)
    return Finding(WARNING, sentence, {}, Suggestion(changes))


ANCHOR_FINDINGS = (
    refused_model,
    impossible_shapes,
    small_objects,
    large_objects,
    aspect_ratios,
    objects_between_locations,
    objects_without_location,
    levels_without_objects,
    other_shape_at_the_start,
    crowded_images,
    config_of_another_method,
)


def _reached_by_iou(case) -> bool:
    return case.anchors is not None and case.coverage.threshold > 0


def _size_limits(case) -> tuple[float, float]:
    """The IoU of two boxes is at most the ratio of their areas."""
    factor = math.sqrt(case.coverage.threshold)
    return min(map(min, case.anchors.sizes)) * factor, max(map(max, case.anchors.sizes)) / factor


def _of_fitting_size(case) -> np.ndarray:
    """Unreached objects whose size is no reason."""
    least, greatest = _size_limits(case)
    sizes = case.data.objects.sizes
    return ~case.coverage.reached & (sizes >= least) & (sizes <= greatest)


def _unreached(case, found, meaning, suggest) -> Finding | None:
    consequence = (
        f"overlaps them by less than IoU {case.coverage.threshold:g}: {case.strategy.consequence}"
    )
    return by_share(found.sum(), len(found), "objects", f"{meaning} {consequence}", suggest)


def _proportions(objects) -> str:
    ratios = objects.sides[:, 1] / objects.sides[:, 0]
    kinds = {"tall": ratios[ratios >= 1], "wide": 1 / ratios[ratios < 1]}
    return ", ".join(
        f"{len(x)} {kind} ones, {np.median(x):.1f} to 1 in the median"
        for kind, x in kinds.items()
        if len(x)
    )
