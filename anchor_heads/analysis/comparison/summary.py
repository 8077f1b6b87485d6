"""From the numbers of the images to those of the data set.

Shape shorthand in this module:

    G: number of objects on all images
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from anchor_heads.analysis.comparison.definitions import ALL, KINDS, RANKS, SIZE_LIMITS, SIZES
from anchor_heads.analysis.comparison.measure import AnnotatedImage
from anchor_heads.evaluation.nms_recall import IOU_THRESHOLDS, nms_recall
from anchor_heads.evaluation.proposal_recall import average_recall

# Bins of the histograms of best IoU, over [0, 1].
NUM_BINS = 20


def describe_objects(images: Sequence[AnnotatedImage]) -> dict:
    """How many images and objects there are, ready for JSON."""
    areas = np.concatenate([image.objects.gt_boxes.area().numpy() for image in images])
    return {
        "images": len(images),
        "images_without_objects": sum(len(image.objects) == 0 for image in images),
        "objects": {name: int(mask.sum()) for name, mask in _by_size(areas).items()},
    }


def summarize(results: Iterable[dict], images: Sequence[AnnotatedImage]) -> dict:
    """One model's numbers over some images.

    Args:
        results (iterable of dict): see :meth:`ComparedModel.measure`. Those of other images may be
            among them; of several of the same image the first counts.
        images (sequence of AnnotatedImage): those that count.

    Returns:
        dict: ready for JSON. Shares are in percent, and None where there is nothing to divide by;
        "seconds_per_image" are the quartiles.
    """
    missing = {image.record["image_id"] for image in images}
    seconds, levels, columns = [], defaultdict(lambda: np.zeros(3)), defaultdict(list)
    for result in results:
        if result["image_id"] in missing:
            missing.remove(result["image_id"])
            seconds.append(result["seconds"])
            for name, counts in result["levels"].items():
                levels[name] += counts
            for name, values in result["objects"].items():
                columns[name].append(np.array(values, np.float32))
    levels[ALL] = sum(levels.values())
    objects = {name: np.concatenate(values) for name, values in columns.items()}  # (G,) each
    return {
        "seconds_per_image": np.percentile(seconds, [25, 50, 75]).tolist(),
        "anchors_per_image": {name: float(x[0] / len(seconds)) for name, x in levels.items()},
        "locations_kept": {name: float(100 * x[2] / x[1]) for name, x in levels.items()},
        "best_iou": {
            name: _describe_iou(objects["best_iou"][mask])
            for name, mask in _by_size(objects["area"]).items()
        },
        "recall": {
            kind: {str(k): _recall(objects[f"{kind}@{k}"]) for k in RANKS}
            for kind in KINDS
            if f"{kind}@{RANKS[0]}" in objects
        },
        "nms_recall": _nms_recall(objects) if "before_nms" in objects else None,
    }


def _by_size(areas: np.ndarray) -> dict[str, np.ndarray]:
    """Which of the (G,) objects are of each size."""
    size = np.searchsorted(SIZE_LIMITS, areas, side="right")
    masks = {name: size == i for i, name in enumerate(SIZES)}
    return {ALL: np.ones(len(areas), dtype=bool)} | masks


def _describe_iou(iou: np.ndarray) -> dict:
    count = len(iou)
    return {
        "objects": count,
        "mean": float(iou.mean(dtype=np.float64)) if count else None,
        "from_0.5": _share(iou, 0.5),
        "from_0.7": _share(iou, 0.7),
        "histogram": np.histogram(iou, NUM_BINS, (0, 1))[0].tolist(),
    }


def _share(iou: np.ndarray, threshold: float) -> float | None:
    return float(100 * (iou >= np.float32(threshold)).mean()) if len(iou) else None


def _recall(overlaps: np.ndarray) -> dict[str, float]:
    return {"AR": 100 * average_recall(overlaps), "R50": _share(overlaps, 0.5)}


def _nms_recall(objects: dict[str, np.ndarray]) -> dict:
    recall = 100 * nms_recall(objects["before_nms"], objects["after_nms"])
    by_iou = {f"{iou:.2f}": float(x) for iou, x in zip(IOU_THRESHOLDS, recall, strict=True)}
    return {"NR": float(recall.mean()), "by_iou": by_iou}
