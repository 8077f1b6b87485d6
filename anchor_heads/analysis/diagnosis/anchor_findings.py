"""Objects that the anchors do not reach, and anchors that have nothing to learn."""

import math

import numpy as np

from anchor_heads.analysis.diagnosis.anchor_levels import AnchorLevels, DynamicLevels
from anchor_heads.analysis.diagnosis.finding import (
    NOTE,
    WARNING,
    Case,
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

# What becomes of an object that no anchor overlaps enough.
_CONSEQUENCES = {
    "Dense": "only the one anchor that overlaps each most learns it",
    "FreeAnchor": "their bags hold poor candidates only",
    "GuidedAnchor": "no location learns their shape",
}


def small_objects(case: Case) -> Finding | None:
    """Objects that are too small for every anchor."""
    if not _matched_by_iou(case):
        return None
    limit = _least_size(case.levels)
    found = ~case.reach.reached & (case.data.objects.sizes < limit)
    return by_share(
        found.sum(),
        len(found),
        "objects",
        f"are smaller than {limit:.1f} pixels (square root of area), so that even the smallest "
        f"anchor, {min(map(min, case.levels.sizes)):g}, {_too_little(case)}",
        lambda: reach_more(case, found),
    )


def large_objects(case: Case) -> Finding | None:
    """Objects that are too large for every anchor."""
    if not _matched_by_iou(case):
        return None
    limit = _greatest_size(case.levels)
    found = ~case.reach.reached & (case.data.objects.sizes > limit)
    return by_share(
        found.sum(),
        len(found),
        "objects",
        f"are larger than {limit:.1f} pixels (square root of area), so that even the largest "
        f"anchor, {max(map(max, case.levels.sizes)):g}, {_too_little(case)}",
        lambda: reach_more(case, found, enlargements=()),
    )


def aspect_ratios(case: Case) -> Finding | None:
    """Objects of a fitting size that no anchor has the shape of."""
    if not _matched_by_iou(case):
        return None
    found = _missed_by_shape(case)
    return by_share(
        found.sum(),
        len(found),
        "objects",
        f"have proportions that no anchor has ({_proportions(case.data.objects[found])}), so that "
        f"even one around their centre {_too_little(case)}",
        lambda: better_aspect_ratios(case, found),
    )


def objects_between_locations(case: Case) -> Finding | None:
    """Objects that an anchor would fit, were there one at their place."""
    if not _matched_by_iou(case):
        return None
    found = ~case.reach.reached & _of_fitting_size(case) & ~_missed_by_shape(case)
    return by_share(
        found.sum(),
        len(found),
        "objects",
        f"lie between locations: an anchor around their centre would fit, but the nearest one "
        f"{_too_little(case)}",
        lambda: reach_more(case, found),
    )


def objects_without_location(case: Case) -> Finding | None:
    """Dynamic Anchor: objects whose shape no location learns."""
    if not isinstance(case.levels, DynamicLevels):
        return None
    found = ~case.reach.reached
    return by_share(
        found.sum(),
        len(found),
        "objects",
        "have no location inside them, near their centre and on a level of their size: nothing "
        "learns their shape",
        lambda: reach_more(case, found),
    )


def levels_without_objects(case: Case) -> Finding | None:
    """Levels that no object belongs to."""
    if case.levels is None or len(case.data.objects) == 0:
        return None
    empty = case.reach.objects_per_level == 0
    count, total = int(empty.sum()), len(empty)
    if count == 0:
        return None
    most = count > total / 2
    names = ", ".join(np.array(case.levels.names)[empty])
    suggest = rebalance_levels if most else fewer_levels
    return Finding(
        WARNING if most else NOTE,
        f"{of(count, total, 'levels')} have no object to learn from ({names}), only background.",
        {"count": count, "total": total},
        suggest(case),
    )


def crowded_bags(case: Case) -> Finding | None:
    """FreeAnchor: images with fewer anchors than the bags of their objects would hold."""
    if case.kind.strategy != "FreeAnchor" or case.levels is None:
        return None
    bag_size = case.cfg.MODEL.FREE_ANCHOR.BAG_SIZE
    objects = case.data.objects_per_image
    anchors = case.levels.anchors_per_image(case.data.image_sizes)
    crowded = objects * bag_size > anchors

    def suggest():
        largest = int((anchors / objects)[crowded].min())
        return Suggestion({"MODEL.FREE_ANCHOR.BAG_SIZE": max(1, largest)})

    return by_share(
        crowded.sum(),
        len(crowded),
        "images",
        f"have fewer anchors than the bags of {bag_size} of their objects (up to "
        f"{objects.max(initial=0)} in an image): bags must share anchors",
        suggest,
        least_share=0,
    )


def free_anchor_box_loss(case: Case) -> Finding | None:
    """FreeAnchor with a box loss that takes a bad box for a good one."""
    if case.kind.strategy != "FreeAnchor":
        return None
    node = case.cfg.MODEL.RETINANET if case.kind.one_stage else case.cfg.MODEL.RPN
    greatest = max(node.BBOX_REG_WEIGHTS)
    if greatest > 1:
        return None
    beta = "SMOOTH_L1_LOSS_BETA" if case.kind.one_stage else "SMOOTH_L1_BETA"
    changes = {
        f"{case.kind.node}.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
        f"{case.kind.node}.{beta}": 0.11,
    }
    return Finding(
        WARNING,
        f"The box deltas have weights of {greatest:g}, where FreeAnchor's are 10 and 5: its "
        "likelihood, exp(-loss), takes boxes that are far off for good ones.",
        {"weight": greatest},
        Suggestion(changes),
    )


ANCHOR_FINDINGS = (
    small_objects,
    large_objects,
    aspect_ratios,
    objects_between_locations,
    objects_without_location,
    levels_without_objects,
    crowded_bags,
    free_anchor_box_loss,
)


# An unreached object has one cause, the first that holds: its size, its shape, its place.


def _matched_by_iou(case):
    return case.levels is not None and not isinstance(case.levels, DynamicLevels)


def _least_size(levels: AnchorLevels) -> float:
    """The IoU of two boxes is at most the ratio of their areas."""
    return min(map(min, levels.sizes)) * math.sqrt(levels.least_iou)


def _greatest_size(levels: AnchorLevels) -> float:
    return max(map(max, levels.sizes)) / math.sqrt(levels.least_iou)


def _of_fitting_size(case):
    sizes = case.data.objects.sizes
    return (sizes >= _least_size(case.levels)) & (sizes <= _greatest_size(case.levels))


def _missed_by_shape(case):
    missed = ~case.reach.reached & _of_fitting_size(case)
    iou = case.levels.best_centered_iou(case.data.objects[missed])
    missed[missed] = iou < case.levels.least_iou
    return missed


def _too_little(case):
    consequence = _CONSEQUENCES[case.kind.strategy]
    return f"overlaps them by less than IoU {case.levels.least_iou:g}: {consequence}"


def _proportions(objects):
    ratios = objects.sides[:, 1] / objects.sides[:, 0]
    kinds = {"tall": ratios[ratios >= 1], "wide": 1 / ratios[ratios < 1]}
    return ", ".join(
        f"{len(x)} {kind} ones, {np.median(x):.1f} to 1 in the median"
        for kind, x in kinds.items()
        if len(x)
    )
