"""From the numbers of the images to those of the data set.

Shape shorthand in this module:

    G: number of objects on all images
"""

from collections.abc import Sequence

import numpy as np

from anchor_heads.analysis.comparison.measure import RANKS, AnnotatedImage
from anchor_heads.evaluation.nms_recall import IOU_THRESHOLDS, nms_recall
from anchor_heads.evaluation.proposal_recall import average_recall

# COCO's limits between small, medium and large, in square pixels.
SIZE_LIMITS = (32**2, 96**2)
# Which boxes recall is given for.
KINDS = ("anchors", "proposals", "detections")
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


def summarize(results: Sequence[dict]) -> dict:
    """One model's numbers over some images.

    Args:
        results (sequence of dict): see :meth:`ComparedModel.measure`.

    Returns:
        dict: ready for JSON. Shares are in percent, and None where there is nothing to divide by;
        "seconds_per_image" are the quartiles.
    """
    levels = {
        name: np.sum([result["levels"][name] for result in results], axis=0)
        for name in results[0]["levels"]
    }
    levels["all"] = sum(levels.values())
    objects = {  # (G,) each
        name: np.concatenate([np.float32(result["objects"][name]) for result in results])
        for name in results[0]["objects"]
    }
    return {
        "seconds_per_image": np.percentile([x["seconds"] for x in results], [25, 50, 75]).tolist(),
        "anchors_per_image": {name: float(x[0] / len(results)) for name, x in levels.items()},
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
    masks = {name: size == i for i, name in enumerate(["small", "medium", "large"])}
    return {"all": np.ones(len(areas), dtype=bool)} | masks


def _describe_iou(iou: np.ndarray) -> dict:
    return {
        "objects": len(iou),
        "mean": float(iou.mean(dtype=np.float64)) if len(iou) else None,
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
