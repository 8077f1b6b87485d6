"""What is looked for in a config and its training data."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from detectron2.data import MetadataCatalog

from anchor_heads.analysis.diagnosis.diagnosis_input import DiagnosisInput
from anchor_heads.analysis.diagnosis.preset_anchors import ASPECT_RATIOS, SIZES
from anchor_heads.analysis.diagnosis.suggestions import (
    Suggestion,
    better_aspect_ratios,
    fewer_levels,
    reach_more,
    rebalance_levels,
)
from anchor_heads.analysis.diagnosis.training_data import short_side
from anchor_heads.analysis.recipe import recipe
from anchor_heads.data.checks import num_classes_key
from anchor_heads.data.coco_json import CONVERTED
from anchor_heads.data.image_files import STORED_FRAME
from anchor_heads.engine.schedule import num_iterations
from anchor_heads.errors import shorten
from anchor_heads.modeling.timm_backbone import is_pretrained_by_timm, is_timm

# An error ruins the training, a warning costs accuracy, a note is worth knowing.
ERROR, WARNING, NOTE = SEVERITIES = "error", "warning", "note"

# What is said, by the name of the finding. What is said of a share follows "3 of 200 objects
# (1.5 %)".
TEXTS = {
    "number_of_classes": "The model is for {model} classes and the data set has {data}: training "
    "refuses to start.",
    "box_format": "Boxes of the annotation file look like {format}, and were read as (x, y, width, "
    "height) in pixels: the boxes are wrong in training{unusable}.",
    "unusable_annotations": "Parts of the annotation file cannot be used as they are: {changes}.",
    "converted_fields": "Fields of the annotation file are of other types than COCO's: {changes}.",
    "stored_frame": "Images of {names} have EXIF tags that turn them, and are read as stored, like "
    "their annotations. Prediction without the annotation file turns them: remove the tags.",
    "absent_classes": "have no box and cannot be detected ({names}).",
    "rare_classes": "have fewer than {few} boxes: too few for a good AP ({names}).",
    "images_without_objects": "are left out of training because they have no objects (crowds "
    "aside): the model never sees images without objects.",
    "detection_limit": "have more objects (up to {most}) than the {limit} detections allowed.",
    "proposal_limit": "have more objects (up to {most}) than the {limit} proposals allowed.",
    "positives_limit": "have more objects (up to {most}) than the {limit} positives of a step.",
    "refused_model": "The model cannot be built: {reason}",
    "impossible_shapes": "{values}: no box has such sides. All must be above 0.",
    "small_objects": "are smaller than {limit:.1f} pixels (square root of area), so that even the "
    "smallest anchor, {anchor:g}, {misses}.",
    "large_objects": "are larger than {limit:.1f} pixels (square root of area), so that even the "
    "largest anchor, {anchor:g}, {misses}.",
    "aspect_ratios": "have proportions that no anchor has ({shapes}), so that even one around "
    "their centre {misses}.",
    "objects_between_locations": "lie between locations: an anchor around their centre would fit, "
    "but the nearest one {misses}.",
    "objects_without_location": "have no location inside them, near their centre and on a level of "
    "their size: {consequence}.",
    "levels_without_objects": "have no object ({names}), only background.",
    "other_shape_at_the_start": "Anchors start {start:g} times as high as wide, and objects are "
    "{median:g} times as high as wide in the median: a short training does not reach their shapes. "
    "What anchors reach is counted with {median:g}.",
    "config_of_another_method": "{problems}",
    "learning_rate": "SOLVER.BASE_LR is {rate:g}, {meaning}.",
    "few_epochs": "Each of the {images} images is seen {epochs:.2g} times, in the published 1x "
    "schedule {usual} times: training ends early.",
    "many_epochs": "Each of the {images} images is seen {epochs:.0f} times: the schedule is for a "
    "larger data set.",
    "steps_after_end": "None of the SOLVER.STEPS {all_steps} is before SOLVER.MAX_ITER "
    "{iterations}: the learning rate never drops, which costs some AP.",
    "long_warmup": "{warmup} of {iterations} iterations ({share:.0f} %) are warm-up: the learning "
    "rate is hardly ever reached.",
    "size_at_test": "Images have a short side of {test} pixels at test time and of {train} in "
    "training: objects look {ratio:.2g} times as large.",
    "frozen_random_layers": "The first {stages} stages of the backbone are frozen, and "
    "MODEL.WEIGHTS is empty: they stay random.",
}

# A smaller share of objects or images is not worth a line; from the second on it is a warning.
LEAST_SHARE, WARNING_SHARE = 0.01, 0.05
FEW_BOXES = 10  # a class with fewer has a low AP
LIMIT_STEP = 50  # suggested limits are multiples of it
START_TOLERANCE = 1.5  # between the aspect ratios of objects and of predicted anchors at the start
# SGD's rates of configs/Base-RetinaNet.yaml and Base-RCNN-FPN.yaml, for a batch of 16. A rate
# within the factor of this rule is as good.
ONE_STAGE_RATE, TWO_STAGE_RATE, REFERENCE_BATCH, RATE_TOLERANCE = 0.01, 0.02, 16, 2
# AdamW diverges at SGD's rates; its own are 1e-4 to 1e-3.
ADAMW_RATE, MAX_ADAMW_RATE = 0.0001, 0.002
# Of schedules: the published 1x has 12 epochs; from-scratch training of small data sets may have
# hundreds, and a few thousand iterations are needed however small the data set is.
FEW_EPOCHS, USUAL_EPOCHS = 3, 12
MANY_EPOCHS, LONG_EPOCHS, ENOUGH_ITERATIONS = 300, 100, 5000
USUAL_STEPS = (2 / 3, 8 / 9)  # after these shares of the schedule the rate drops
WARMUP_SHARE = 0.5
SIZE_TOLERANCE = 1.25  # objects that look larger or smaller by more are objects of another size


@dataclass(frozen=True)
class Finding:
    """Something that will hurt."""

    name: str
    severity: str
    sentence: str
    """What it is and what it means, with the numbers."""
    numbers: Mapping[str, float]
    """The numbers by name: "count" and "total" where something is counted."""
    suggestion: Suggestion


def find(case: DiagnosisInput) -> dict[str, Finding]:
    """The findings by name; errors first, then warnings, then notes."""
    parts = (_annotation_files, _classes_and_images, _limits, _anchors, _config)
    found = [finding for part in parts for finding in part(case) if finding]
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return {finding.name: finding for finding in found}


def _finding(name, severity, numbers, suggestion, what="", **words) -> Finding:
    """A finding with its text, after ``what``, formatted with the numbers and some words."""
    if not isinstance(suggestion, Suggestion):
        suggestion = Suggestion(suggestion)
    sentence = what + TEXTS[name].format(**numbers, **words)
    return Finding(name, severity, sentence, numbers, suggestion)


def _share(name, what, found, suggest, least_share=LEAST_SHARE, severity=None, **words):
    """A finding about a share of something, or None if the share is small.

    Args:
        name (str): of the finding.
        what (str): what is counted, in the plural.
        found (ndarray): (n,) bool, which of them are found.
        suggest (callable): gives the suggestion. It may take time, and is called for findings only.
        least_share (float): a smaller share is no finding. Nothing never is one.
        severity (str or None): None for one that the share decides.
        words: of the text.
    """
    count, total = int(found.sum()), len(found)
    if count == 0 or count < least_share * total:
        return None
    severity = severity or (WARNING if count >= WARNING_SHARE * total else NOTE)
    counted = f"{count} of {total} {what} ({100 * count / total:.1f} %) "
    numbers = {"count": count, "total": total}
    return _finding(name, severity, numbers, suggest(), counted, **words)


def _annotation_files(case) -> Iterator[Finding]:
    """What was done to the annotation files to make them usable."""
    cleanings = case.data.cleaning
    if misread := [cleaning for cleaning in cleanings if cleaning.box_format]:
        unusable = [x for cleaning in misread for x in cleaning.changes if "boxes" in x.what]
        counts = "; ".join(f"{change.count} of {change.total} {change.what}" for change in unusable)
        yield _finding(
            "box_format",
            ERROR,
            {"count": sum(change.count for change in unusable)},
            Suggestion({"DATASETS.COCO_FORMAT": None}, "Convert the boxes of the annotation file."),
            format=misread[0].box_format,
            unusable=counts and f" ({counts})",
        )
    changes = [change for cleaning in cleanings for change in cleaning.changes]
    unusable = [x for x in changes if x.kind != CONVERTED and x.count >= LEAST_SHARE * x.total]
    converted = [x for x in changes if x.kind == CONVERTED]
    for name, found in (("unusable_annotations", unusable), ("converted_fields", converted)):
        if found:
            worst = max(found, key=lambda change: change.count / change.total)
            is_severe = found is unusable and worst.count >= WARNING_SHARE * worst.total
            numbers = {"count": worst.count, "total": worst.total}
            listed = "; ".join(map(str, found))
            yield _finding(name, WARNING if is_severe else NOTE, numbers, {}, changes=listed)

    stored = [x for x in case.cfg.DATASETS.TRAIN if MetadataCatalog.get(x).get(STORED_FRAME)]
    if stored:
        yield _finding("stored_frame", NOTE, {"count": len(stored)}, {}, names=", ".join(stored))


def _classes_and_images(case) -> Iterator[Finding | None]:
    """Classes that the model does not fit or that are rare, and images that are left out."""
    data, key, num_classes = case.data, num_classes_key(case.cfg), len(case.data.class_names)
    if key and case.get(key) != num_classes:
        numbers = {"model": case.get(key), "data": num_classes}
        yield _finding("number_of_classes", ERROR, numbers, {key: num_classes})

    boxes = np.bincount(data.objects.classes, minlength=num_classes)
    absent, rare = boxes == 0, (boxes > 0) & (boxes < FEW_BOXES)
    advice = "Take them out of the categories of the annotation file, or add images that have them."
    for name, found, suggest in (
        ("absent_classes", absent, lambda: Suggestion({"DATASETS.TRAIN": None}, advice)),
        ("rare_classes", rare, lambda: _repeat_images(data, rare)),
    ):
        names = shorten(np.array(data.class_names)[found].tolist())
        yield _share(name, "classes", found, suggest, 0, names=names, few=FEW_BOXES)

    left_out = np.arange(data.num_left_out + len(data.image_sizes)) < data.num_left_out
    changes = {"DATALOADER.FILTER_EMPTY_ANNOTATIONS": False}
    yield _share("images_without_objects", "images", left_out, lambda: changes)


def _repeat_images(data, rare) -> Suggestion | dict:
    """A class in a share f of the images is repeated sqrt(threshold / f) times: twice for the most
    frequent of the rare classes."""
    if rare.all():
        return Suggestion({"DATASETS.TRAIN": None}, "Add images.")
    pairs = np.unique(np.stack([data.objects.classes, data.objects.images]), axis=1)
    share = np.bincount(pairs[0], minlength=len(rare))[rare].max() / len(data.image_sizes)
    return {
        "DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler",
        "DATALOADER.REPEAT_THRESHOLD": float(f"{min(1, 4 * share):.2g}"),
    }


def _limits(case) -> Iterator[Finding | None]:
    """Images with more objects than there may be detections, proposals or positives."""
    strategy, objects = case.strategy, case.data.objects_per_image
    most = objects.max(initial=0)
    detects = num_classes_key(case.cfg) is not None
    proposals = "MODEL.RPN.POST_NMS_TOPK" if strategy else "DATASETS.PRECOMPUTED_PROPOSAL_TOPK"
    positives = dict(strategy.positive_fractions) if strategy else {}
    if detects and not case.one_stage:
        fraction = case.cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION
        positives["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"] = fraction
    for name, applies, fractions in (  # of each key's value, the share that is for objects
        ("detection_limit", detects, {"TEST.DETECTIONS_PER_IMAGE": 1}),
        ("proposal_limit", not case.one_stage, {f"{proposals}_{x}": 1 for x in ("TRAIN", "TEST")}),
        ("positives_limit", bool(positives), positives),
    ):
        limits = {key: int(case.get(key) * x) for key, x in fractions.items() if case.get(key) >= 0}
        if applies and limits:
            exceeded = objects > min(limits.values())
            changes = {
                key: math.ceil(most / fractions[key] / LIMIT_STEP) * LIMIT_STEP
                for key, limit in limits.items()
                if limit < most
            }
            words = {"most": most, "limit": min(limits.values())}
            yield _share(name, "images", exceeded, partial(Suggestion, changes), 0, **words)


def _anchors(case) -> Iterator[Finding | None]:
    """Objects that anchors do not reach, and anchors that are assigned to nothing."""
    if case.strategy and len(case.data.objects) and (start := _start(case)):
        yield start
        case = case.with_changes(start.suggestion.changes)
    if case.build_error:
        yield _finding("refused_model", ERROR, {}, {}, reason=case.build_error)
    shapes = {key: np.hstack(case.get(key)) for key in (SIZES, ASPECT_RATIOS)}
    if wrong := {key: x[~(x > 0)].tolist() for key, x in shapes.items() if not (x > 0).all()}:
        values = (f"{key} has {', '.join(map('{:g}'.format, x))}" for key, x in wrong.items())
        numbers, changes = {"count": sum(map(len, wrong.values()))}, dict.fromkeys(wrong)
        yield _finding("impossible_shapes", ERROR, numbers, changes, values=" and ".join(values))

    strategy = case.strategy
    if case.anchors and len(case.data.objects):
        yield from _unreached(case)
        empty = ~case.coverage.levels.any(axis=0)
        names = ", ".join(np.array(strategy.in_features)[empty])
        many = empty.mean() > 0.5
        suggest = partial(rebalance_levels if many else fewer_levels, case)
        severity = WARNING if many else NOTE
        yield _share("levels_without_objects", "levels", empty, suggest, 0, severity, names=names)
    if problems := strategy.config_problems() if strategy else []:
        changes = {key: value for problem in problems for key, value in problem.changes.items()}
        sentences = " ".join(problem.sentence for problem in problems)
        yield _finding("config_of_another_method", WARNING, {}, changes, problems=sentences)


def _start(case) -> Finding | None:
    """The shape that predicted anchors start from, if it is not the objects'."""
    changes = recipe(case.strategy, case.data.objects.sides)
    key = next((key for key in changes if key.endswith("BASE_ASPECT_RATIO")), None)
    start, median = (case.get(key), changes[key]) if key else (1, 1)
    if max(start / median, median / start) <= START_TOLERANCE:
        return None
    changes = {key: value for key, value in changes.items() if case.get(key) != value}
    numbers = {"start": start, "median": median}
    return _finding("other_shape_at_the_start", WARNING, numbers, changes)


def _unreached(case) -> Iterator[Finding | None]:
    """Objects without an anchor, by the one cause that holds first: their size, shape, place."""
    threshold, consequence = case.coverage.threshold, case.strategy.consequence
    unreached, objects = ~case.coverage.reached, case.data.objects
    if threshold == 0:
        suggest = partial(reach_more, case, unreached)
        words = {"consequence": consequence}
        yield _share("objects_without_location", "objects", unreached, suggest, **words)
        return
    # The IoU of two boxes is at most the ratio of their areas.
    smallest, largest = min(map(min, case.anchors.sizes)), max(map(max, case.anchors.sizes))
    least, most = smallest * math.sqrt(threshold), largest / math.sqrt(threshold)
    small, large = unreached & (objects.sizes < least), unreached & (objects.sizes > most)
    fits = case.coverage.centered_iou >= threshold
    misfit, between = (unreached & ~small & ~large & x for x in (~fits, fits))
    misses = f"overlaps them by less than IoU {threshold:g}: {consequence}"
    larger = partial(reach_more, enlargements=())
    for name, found, suggest, words in (
        ("small_objects", small, reach_more, {"limit": least, "anchor": smallest}),
        ("large_objects", large, larger, {"limit": most, "anchor": largest}),
        ("aspect_ratios", misfit, better_aspect_ratios, {"shapes": _shapes(objects[misfit])}),
        ("objects_between_locations", between, reach_more, {}),
    ):
        suggest = partial(suggest, case, found)
        yield _share(name, "objects", found, suggest, misses=misses, **words)


def _shapes(objects):
    ratios = objects.aspect_ratios
    kinds = {"tall": ratios[ratios >= 1], "wide": 1 / ratios[ratios < 1]}
    return ", ".join(
        f"{len(x)} {kind} ones, {np.median(x):.1f} to 1 in the median"
        for kind, x in kinds.items()
        if len(x)
    )


def _config(case) -> Iterator[Finding]:
    """Learning rate, schedule, input and layers that do not go with each other or the data."""
    yield from _learning_rate(case)
    yield from _schedule(case)
    model, image = case.cfg.MODEL, case.cfg.INPUT
    sides, at_test = image.MIN_SIZE_TRAIN, image.MIN_SIZE_TEST
    if 0 not in (at_test, *sides):  # 0 keeps the size
        nearest = min(max(at_test, min(sides)), max(sides))
        ratio = at_test / nearest
        if not 1 / SIZE_TOLERANCE <= ratio <= SIZE_TOLERANCE:
            numbers = {"test": at_test, "train": nearest}
            changes = {"INPUT.MIN_SIZE_TEST": short_side(case.cfg)}
            yield _finding("size_at_test", WARNING, numbers, changes, ratio=ratio)

    frozen = model.BACKBONE.FREEZE_AT
    if frozen and not model.WEIGHTS and not is_pretrained_by_timm(case.cfg):
        timm = is_timm(case.cfg)
        norm = {"MODEL.TIMM.NORM_EVAL": False} if timm else {"MODEL.RESNETS.NORM": "BN"}
        changes = {"MODEL.BACKBONE.FREEZE_AT": 0} | norm
        yield _finding("frozen_random_layers", ERROR, {"stages": frozen}, changes)


def _learning_rate(case) -> Iterator[Finding]:
    """SGD's rate is in proportion to the batch; AdamW has rates of its own."""
    solver, rate = case.cfg.SOLVER, case.cfg.SOLVER.BASE_LR
    if solver.OPTIMIZER != "SGD":
        if rate > MAX_ADAMW_RATE:
            meaning = f"a rate for SGD; with {solver.OPTIMIZER} training may diverge"
            changes = {"SOLVER.BASE_LR": ADAMW_RATE}
            yield _finding("learning_rate", WARNING, {"rate": rate}, changes, meaning=meaning)
        return
    reference = ONE_STAGE_RATE if case.one_stage else TWO_STAGE_RATE
    expected = reference * solver.IMS_PER_BATCH / REFERENCE_BATCH
    ratio = rate / expected
    if not 1 / RATE_TOLERANCE <= round(ratio, 6) <= RATE_TOLERANCE:
        is_high = ratio > 1
        meaning = (
            f"for {solver.IMS_PER_BATCH} images {ratio:.3g} times what is in proportion to "
            f"{reference:g} for {REFERENCE_BATCH}: training "
            f"{'may diverge' if is_high else 'is slow'}"
        )
        numbers = {"rate": rate, "ratio": ratio}
        changes = {"SOLVER.BASE_LR": float(f"{expected:.3g}")}
        severity = WARNING if is_high else NOTE
        yield _finding("learning_rate", severity, numbers, changes, meaning=meaning)


def _schedule(case) -> Iterator[Finding]:
    """Length, drops of the rate and warm-up; the last two for a better length if there is one."""
    solver, images = case.cfg.SOLVER, len(case.data.image_sizes)
    iterations = length = num_iterations(solver, images)
    per_epoch = max(1, images) / solver.IMS_PER_BATCH
    epochs = iterations / per_epoch
    name = None
    if epochs < FEW_EPOCHS:
        name, length = "few_epochs", round(USUAL_EPOCHS * per_epoch)
    elif epochs > MANY_EPOCHS and iterations > ENOUGH_ITERATIONS:
        name, length = "many_epochs", max(round(LONG_EPOCHS * per_epoch), ENOUGH_ITERATIONS)
    has_steps = solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR"
    # Shares of the length; SOLVER.MAX_EPOCHS leaves SOLVER.STEPS their shares of SOLVER.MAX_ITER.
    drops = [step / solver.MAX_ITER for step in solver.STEPS if step < solver.MAX_ITER]
    end = solver.MAX_ITER if solver.MAX_EPOCHS else length
    steps = {"SOLVER.STEPS": tuple(int(x * end) for x in drops or USUAL_STEPS)}
    if name and solver.MAX_EPOCHS:
        # In whole epochs, rounded down to no more than enough iterations.
        many = max(LONG_EPOCHS, ENOUGH_ITERATIONS // per_epoch)
        changes = {"SOLVER.MAX_EPOCHS": float(USUAL_EPOCHS if name == "few_epochs" else many)}
    elif name:
        changes = {"SOLVER.MAX_ITER": length} | (steps if has_steps else {})
    if name:
        words = {"images": images, "usual": USUAL_EPOCHS}
        yield _finding(name, WARNING, {"epochs": epochs}, changes, **words)
    if has_steps and not drops:
        numbers = {"steps": 0, "iterations": solver.MAX_ITER}
        yield _finding("steps_after_end", WARNING, numbers, steps, all_steps=tuple(solver.STEPS))
    if solver.WARMUP_ITERS > WARMUP_SHARE * iterations:
        numbers = {"warmup": solver.WARMUP_ITERS, "iterations": iterations}
        changes = {"SOLVER.WARMUP_ITERS": max(1, length // 20)}
        share = 100 * solver.WARMUP_ITERS / iterations
        yield _finding("long_warmup", WARNING, numbers, changes, share=share)
