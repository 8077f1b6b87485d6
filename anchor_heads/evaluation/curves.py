"""Precision and recall per class, and which classes are taken for which.

Shape shorthand in this module:

    K: number of classes
    D: detections of a class, in descending order of score
"""

import json
import os
from typing import NamedTuple

import numpy as np
import pycocotools.mask as mask_util
from pycocotools.cocoeval import COCOeval

from anchor_heads.visualization.curve_plots import plot_confusion_matrix, plot_precision_recall

# Of the curves and the confusion matrix; the first of COCO's.
IOU_THRESHOLD = 0.5
_ALL_AREAS = 0
BACKGROUND = "background"


class OperatingPoint(NamedTuple):
    """What a class has if detections with a lower score are left out."""

    score: float
    precision: float
    recall: float
    f1: float


class ClassResult(NamedTuple):
    """A class as COCO evaluates it, at IoU 0.5 unless stated otherwise. Numbers from 0 to 1."""

    name: str
    num_objects: int
    ap: float
    """Over IoU 0.5 to 0.95, as in AP; NaN without objects."""
    ap50: float
    ar: float
    """Recall over IoU 0.5 to 0.95 of all detections."""
    best: OperatingPoint | None
    """Where F1 is highest; None without objects or without any right detection."""
    precision: np.ndarray
    """(101,) the highest precision at a recall of at least 0, 0.01, ..., 1; NaN without objects."""


def class_results(coco_eval: COCOeval) -> list[ClassResult]:
    """Results per class of an evaluation, by ascending category id.

    Args:
        coco_eval (COCOeval): of boxes or masks, after ``evaluate`` and ``accumulate``.
    """
    results = []
    for k, category in enumerate(coco_eval.cocoGt.loadCats(coco_eval.params.catIds)):
        precision = coco_eval.eval["precision"][:, :, k, _ALL_AREAS, -1]  # (T, 101)
        scores, is_right, num_objects = _detections_of_class(coco_eval, k)
        results.append(
            ClassResult(
                category["name"],
                num_objects,
                ap=_mean(precision),
                ap50=_mean(precision[0]),
                ar=_mean(coco_eval.eval["recall"][:, k, _ALL_AREAS, -1]),
                best=best_f1(scores, is_right, num_objects),
                precision=np.where(precision[0] < 0, np.nan, precision[0]),
            )
        )
    return results


def best_f1(scores: np.ndarray, is_right: np.ndarray, num_objects: int) -> OperatingPoint | None:
    """The score from which detections have the highest F1, the harmonic mean of precision and
    recall.

    Args:
        scores (ndarray): (D,) in descending order.
        is_right (ndarray): (D,) whether the detection found an object.
        num_objects (int): to be found.
    """
    if num_objects == 0 or not is_right.any():
        return None
    found = np.cumsum(is_right)
    precision, recall = found / np.arange(1, len(found) + 1), found / num_objects
    f1 = 2 * found / (np.arange(1, len(found) + 1) + num_objects)
    # A threshold keeps all detections with the same score.
    f1[:-1][scores[:-1] == scores[1:]] = 0
    best = f1.argmax()
    return OperatingPoint(*(float(x[best]) for x in (scores, precision, recall, f1)))


def confusion_matrix(coco_eval: COCOeval, thresholds: list[float]) -> np.ndarray:
    """How often objects of one class are detected as another.

    In each image the detections are matched to the objects in descending order of score, whatever
    their classes: to the free object with the highest IoU of at least 0.5. Those that lie on crowds
    are left out.

    Args:
        coco_eval (COCOeval): of boxes.
        thresholds (list[float]): for each class, detections with a lower score are left out.

    Returns:
        ndarray: (K + 1, K + 1) counts: rows are the annotated classes, columns the detected ones.
        The last row is of detections without an object, the last column of objects that were not
        found.
    """
    class_of = {id: k for k, id in enumerate(coco_eval.params.catIds)}
    counts = np.zeros((len(class_of) + 1, len(class_of) + 1), np.int64)
    for image_id in coco_eval.params.imgIds:
        objects = coco_eval.cocoGt.imgToAnns.get(image_id, [])
        detections = [
            x
            for x in coco_eval.cocoDt.imgToAnns.get(image_id, [])
            if x["score"] >= thresholds[class_of[x["category_id"]]]
        ]
        detections.sort(key=lambda x: -x["score"])
        for object, detection in _matched(objects, detections[: coco_eval.params.maxDets[-1]]):
            row, column = (
                len(class_of) if x is None else class_of[x["category_id"]]
                for x in (object, detection)
            )
            counts[row, column] += 1
    return counts


def write_curves(coco_eval: COCOeval, folder: str) -> None:
    """Write ``curves_bbox.json`` and ``precision_recall_bbox.png`` for an evaluation, with the name
    of its task, and for boxes ``confusion_matrix.png``, whose counts are in the JSON file.

    Detections count in the confusion matrix from the score of their class's best F1 on.

    Args:
        coco_eval (COCOeval): see :func:`class_results`.
        folder (str): is made where it is missing.
    """
    task = coco_eval.params.iouType
    results = class_results(coco_eval)
    content = {
        "iou_threshold": IOU_THRESHOLD,
        "max_detections": int(coco_eval.params.maxDets[-1]),
        "recall": coco_eval.params.recThrs.round(2).tolist(),
        "classes": [_to_json(result) for result in results],
    }
    os.makedirs(folder, exist_ok=True)
    plot_precision_recall(results, os.path.join(folder, f"precision_recall_{task}.png"))
    if task == "bbox":
        thresholds = [np.inf if result.best is None else result.best.score for result in results]
        counts = confusion_matrix(coco_eval, thresholds)
        names = [*(result.name for result in results), BACKGROUND]
        content["confusion_matrix"] = {
            "annotated": names,
            "detected": names,
            "counts": counts.tolist(),
        }
        plot_confusion_matrix(counts, names, os.path.join(folder, "confusion_matrix.png"))
    with open(os.path.join(folder, f"curves_{task}.json"), "w", encoding="utf-8") as file:
        json.dump(content, file)


def _detections_of_class(coco_eval, k):
    """Scores (D,), whether they found an object (D,), and how many objects there are."""
    areas, images = len(coco_eval.params.areaRng), len(coco_eval.params.imgIds)
    start = (k * areas + _ALL_AREAS) * images
    evaluated = [x for x in coco_eval.evalImgs[start : start + images] if x is not None]
    num_objects = sum(int((np.asarray(x["gtIgnore"]) == 0).sum()) for x in evaluated)
    scores = np.concatenate([[], *(x["dtScores"] for x in evaluated)])
    is_right = np.concatenate([[], *(x["dtMatches"][0] > 0 for x in evaluated)]).astype(bool)
    counts = ~np.concatenate([[], *(x["dtIgnore"][0] for x in evaluated)]).astype(bool)
    order = np.argsort(-scores[counts], kind="stable")
    return scores[counts][order], is_right[counts][order], num_objects


def _matched(objects, detections):
    """Pairs of object and detection; None in place of one that is missing."""
    crowds = [x for x in objects if x["iscrowd"]]
    objects = [x for x in objects if not x["iscrowd"]]
    free = np.ones(len(objects), bool)
    for detection, iou in zip(detections, _iou(detections, objects, crowd=False), strict=True):
        iou = np.where(free, iou, 0)
        if len(iou) and iou.max() >= IOU_THRESHOLD:
            best = iou.argmax()
            free[best] = False
            yield objects[best], detection
        elif not (_iou([detection], crowds, crowd=True) >= IOU_THRESHOLD).any():
            yield None, detection
    for i in np.flatnonzero(free):
        yield objects[i], None


def _iou(detections, objects, crowd):
    if not detections or not objects:
        return np.zeros((len(detections), len(objects)))
    boxes = ([x["bbox"] for x in xs] for xs in (detections, objects))
    return mask_util.iou(*boxes, [int(crowd)] * len(objects))


def _mean(values):
    """The mean of COCO's numbers; -1 means none."""
    values = values[values > -1]
    return float(values.mean()) if values.size else float("nan")


def _to_json(result):
    return {
        "name": result.name,
        "objects": result.num_objects,
        "AP": _number(result.ap),
        "AP50": _number(result.ap50),
        "AR": _number(result.ar),
        "best_f1": None if result.best is None else result.best._asdict(),
        "precision": [_number(x) for x in result.precision.tolist()],
    }


def _number(value):
    """JSON has no NaN."""
    return None if np.isnan(value) else round(value, 6)
