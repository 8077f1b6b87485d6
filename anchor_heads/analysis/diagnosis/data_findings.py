"""Classes, images and limits that do not go with the number of objects."""

import math

import numpy as np
from detectron2.data import MetadataCatalog

from anchor_heads.analysis.diagnosis.finding import (
    ERROR,
    LEAST_SHARE,
    NOTE,
    WARNING,
    WARNING_SHARE,
    DiagnosisInput,
    Finding,
    Suggestion,
    by_share,
)
from anchor_heads.data.coco_json import CLIPPED, CONVERTED, DROPPED
from anchor_heads.data.image_files import STORED_FRAME

# A class with fewer boxes is hardly learned.
FEW_BOXES = 10
NAMES_SHOWN = 10
# Suggested limits are multiples of this.
LIMIT_STEP = 50


def number_of_classes(case: DiagnosisInput) -> Finding | None:
    """A model for another number of classes."""
    if not case.detects:
        return None
    node = "RETINANET" if case.one_stage else "ROI_HEADS"
    model, data = case.cfg.MODEL[node].NUM_CLASSES, len(case.data.class_names)
    if model == data:
        return None
    return Finding(
        ERROR,
        f"The model is for {model} classes and the data set has {data}: training refuses to start.",
        {"model": model, "data": data},
        Suggestion({f"MODEL.{node}.NUM_CLASSES": data}),
    )


def box_format(case: DiagnosisInput) -> Finding | None:
    """Boxes that seem to be written in another format than COCO's."""
    found = [cleaning for cleaning in case.data.cleaning if cleaning.box_format]
    if not found:
        return None
    spoilt = [x for cleaning in found for x in cleaning.changes if "boxes" in x.what]
    counts = "; ".join(f"{change.count} of {change.total} {change.what}" for change in spoilt)
    so_far = f" ({counts})" if counts else ""
    return Finding(
        ERROR,
        f"Boxes of the annotation file look like {found[0].box_format}, and were read as (x, y, "
        f"width, height) in pixels: the model learns wrong boxes{so_far}.",
        {"count": sum(change.count for change in spoilt)},
        Suggestion({"DATASETS.COCO_FORMAT": None}, "Convert the boxes of the annotation file."),
    )


def spoilt_boxes(case: DiagnosisInput) -> Finding | None:
    """Boxes that were clipped, and annotations that were dropped, when the file was read."""
    what = "Parts of the annotation file cannot be used as they are"
    return _cleaned(case, (CLIPPED, DROPPED), LEAST_SHARE, what)


def converted_fields(case: DiagnosisInput) -> Finding | None:
    """Fields of another type than COCO's."""
    what = "Fields of the annotation file are of other types than COCO's"
    return _cleaned(case, (CONVERTED,), 0, what)


def stored_frame(case: DiagnosisInput) -> Finding | None:
    """Photographs that EXIF tags would turn away from their annotations."""
    names = [
        name for name in case.cfg.DATASETS.TRAIN if MetadataCatalog.get(name).get(STORED_FRAME)
    ]
    if not names:
        return None
    return Finding(
        NOTE,
        f"Images of {', '.join(names)} have EXIF tags that turn them, and their annotations are of "
        "the stored pixels: they are read as stored. Other programs show them turned, and so does "
        "prediction without the annotation file: take the tags out of the files.",
        {"count": len(names)},
    )


def absent_classes(case: DiagnosisInput) -> Finding | None:
    """Classes without a box."""
    absent = case.data.boxes_per_class == 0
    advice = "Take them out of the categories of the annotation file, or add images that have them."
    suggestion = Suggestion({"DATASETS.TRAIN": None}, advice)
    return _classes(case, absent, "have no box and are never learned", suggestion)


def rare_classes(case: DiagnosisInput) -> Finding | None:
    """Classes with a few boxes."""
    boxes = case.data.boxes_per_class
    rare = (boxes > 0) & (boxes < FEW_BOXES)
    meaning = f"have fewer than {FEW_BOXES} boxes: hardly learned"
    if rare.all():
        return _classes(case, rare, meaning, Suggestion({"DATASETS.TRAIN": None}, "Add images."))
    changes = {"DATALOADER.SAMPLER_TRAIN": "RepeatFactorTrainingSampler"}
    if rare.any():
        changes["DATALOADER.REPEAT_THRESHOLD"] = _repeat_threshold(case, rare)
    return _classes(case, rare, meaning, Suggestion(changes))


def images_without_objects(case: DiagnosisInput) -> Finding | None:
    """Images that training leaves out."""
    if not case.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        return None
    return by_share(
        case.data.num_images_without_objects,
        case.data.num_images_in_files,
        "images",
        "are left out of training, for they have no objects (crowds aside): the model never sees "
        "that there may be none",
        lambda: Suggestion({"DATALOADER.FILTER_EMPTY_ANNOTATIONS": False}),
    )


def detection_limit(case: DiagnosisInput) -> Finding | None:
    """Images with more objects than may be detected."""
    fractions = {"TEST.DETECTIONS_PER_IMAGE": 1} if case.detects else {}
    return _over_limits(case, fractions, "that may be detected in one")


def proposal_limit(case: DiagnosisInput) -> Finding | None:
    """Images with more objects than there may be proposals."""
    if case.one_stage:
        return None
    stored = case.strategy is None
    key = "DATASETS.PRECOMPUTED_PROPOSAL_TOPK" if stored else "MODEL.RPN.POST_NMS_TOPK"
    fractions = {f"{key}_TRAIN": 1, f"{key}_TEST": 1}
    return _over_limits(case, fractions, "proposals of one")


def positives_limit(case: DiagnosisInput) -> Finding | None:
    """Images with more objects than positives are sampled of each."""
    fractions = dict(case.strategy.positive_fractions) if case.strategy else {}
    if case.detects and not case.one_stage:
        fractions["MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE"] = (
            case.cfg.MODEL.ROI_HEADS.POSITIVE_FRACTION
        )
    return _over_limits(case, fractions, "positives that a step samples of one")


DATA_FINDINGS = (
    number_of_classes,
    box_format,
    spoilt_boxes,
    converted_fields,
    stored_frame,
    absent_classes,
    rare_classes,
    images_without_objects,
    detection_limit,
    proposal_limit,
    positives_limit,
)


def _cleaned(case, kinds, least_share, what):
    """What was done to the annotation files, of some kinds."""
    changes = [x for cleaning in case.data.cleaning for x in cleaning.changes if x.kind in kinds]
    changes = [change for change in changes if change.count >= least_share * change.total]
    if not changes:
        return None
    worst = max(changes, key=lambda change: change.count / change.total)
    spoils = kinds != (CONVERTED,) and worst.count >= WARNING_SHARE * worst.total
    return Finding(
        WARNING if spoils else NOTE,
        f"{what}: {'; '.join(map(str, changes))}.",
        {"count": worst.count, "total": worst.total},
    )


def _classes(case, chosen, meaning, suggestion):
    names = np.array(case.data.class_names)[chosen].tolist()
    listed = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
    return by_share(
        len(names),
        len(case.data.class_names),
        "classes",
        f"{meaning} ({listed})",
        lambda: suggestion,
        least_share=0,
    )


def _repeat_threshold(case, rare):
    """A class in a share f of the images is repeated sqrt(threshold / f) times: twice for the most
    frequent of the rare classes."""
    objects = case.data.objects
    pairs = np.unique(np.stack([objects.classes, objects.images]), axis=1)
    images = np.bincount(pairs[0], minlength=len(rare))[rare].max()
    return float(f"{min(1, 4 * images / case.data.num_images):.2g}")


def _over_limits(case, fractions, what):
    """Images with more objects than one of some keys allows.

    Args:
        fractions (dict): for each key, what share of its value is for objects.
    """
    values = {key: case.get(key) for key in fractions}
    limits = {key: int(value * fractions[key]) for key, value in values.items() if value >= 0}
    if not limits:
        return None
    objects = case.data.objects_per_image
    most, least_limit = objects.max(initial=0), min(limits.values())

    def suggest():
        return Suggestion(
            {
                key: math.ceil(most / fractions[key] / LIMIT_STEP) * LIMIT_STEP
                for key, limit in limits.items()
                if limit < most
            }
        )

    return by_share(
        (objects > least_limit).sum(),
        len(objects),
        "images",
        f"have more objects (up to {most}) than the {least_limit} {what}",
        suggest,
        least_share=0,
    )
