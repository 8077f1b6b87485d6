"""Average recall (AR) of box proposals.

Shape shorthand in this module:

    P: proposals of an image, in descending order of objectness
    G: ground-truth boxes of an image, without crowds
"""

import numpy as np
import torch
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from pycocotools.coco import COCO
from tabulate import tabulate

LIMITS = (100, 300, 1000)
# COCO's ranges of the annotated area in square pixels, both ends included.
AREA_RANGES = {"": (0, 1e10), "s": (0, 32**2), "m": (32**2, 96**2), "l": (96**2, 1e10)}
RECALLS = tuple(f"AR{area}@{limit}" for limit in LIMITS for area in AREA_RANGES)
# Detectron2 compares in float32 as well.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10, dtype=np.float32)


def proposal_recall(predictions: list[dict], coco: COCO) -> dict[str, float]:
    """Average recall over IoU 0.5 to 0.95, for several numbers of proposals and sizes of objects.

    The matching is Detectron2's, so the numbers are its own where every image has a proposal. It
    leaves images without any proposal out; here their objects count as not found.

    Args:
        predictions (list[dict]): one per image, with "image_id" and "proposals", Instances with
            "proposal_boxes" (P, 4) and "objectness_logits" (P,).
        coco (COCO): the ground truth.

    Returns:
        dict[str, float]: "AR@100", "ARs@100", "ARm@100", "ARl@100", the same @300 and @1000, in
        percent; NaN where there is no object of the size.
    """
    overlaps = {(area, limit): [] for limit in LIMITS for area in AREA_RANGES}
    for prediction in predictions:
        gt_boxes, gt_areas = _ground_truth(coco, prediction["image_id"])
        iou = _iou_of_best_proposals(prediction["proposals"], gt_boxes)
        for area, (smallest, largest) in AREA_RANGES.items():
            iou_in_range = iou[:, (gt_areas >= smallest) & (gt_areas <= largest)]
            for limit in LIMITS:
                overlaps[area, limit].append(matched_overlaps(iou_in_range[:limit]))
    return {
        f"AR{area}@{limit}": 100 * average_recall(np.concatenate([*per_image, np.zeros(0)]))
        for (area, limit), per_image in overlaps.items()
    }


def matched_overlaps(iou: np.ndarray) -> np.ndarray:
    """The IoU of each object with its own proposal.

    Greedy and one to one: the pair with the highest IoU of all is matched first, then the best of
    what is left.

    Args:
        iou (ndarray): of shape (P, G).

    Returns:
        ndarray: of shape (G,); 0 for an object that is left without a proposal.
    """
    iou = iou.copy()
    matched = np.zeros(iou.shape[1], dtype=iou.dtype)
    for _ in range(min(iou.shape)):
        proposal, gt = np.unravel_index(iou.argmax(), iou.shape)
        if iou[proposal, gt] <= 0:
            break
        matched[gt] = iou[proposal, gt]
        iou[proposal, :] = -1
        iou[:, gt] = -1
    return matched


def average_recall(overlaps: np.ndarray) -> float:
    """The share of objects with an IoU of at least t, averaged over t in IOU_THRESHOLDS.

    Args:
        overlaps (ndarray): the IoU of each object with its proposal; any number of objects.

    Returns:
        float: from 0 to 1; NaN without objects.
    """
    if len(overlaps) == 0:
        return float("nan")
    return float((overlaps[:, None].astype(np.float32) >= IOU_THRESHOLDS).mean())


def recall_table(recall: dict[str, float]) -> str:
    """The result of :func:`proposal_recall` as a table with one row per number of proposals."""
    rows = [[limit, *(recall[f"AR{area}@{limit}"] for area in AREA_RANGES)] for limit in LIMITS]
    headers = ["proposals", *(f"AR{area}" for area in AREA_RANGES)]
    return tabulate(rows, headers, tablefmt="pipe", floatfmt=".3f")


def _ground_truth(coco: COCO, image_id) -> tuple[Boxes, np.ndarray]:
    annotations = [ann for ann in coco.imgToAnns[image_id] if not ann.get("iscrowd", 0)]
    boxes = torch.tensor([ann["bbox"] for ann in annotations], dtype=torch.float32).reshape(-1, 4)
    boxes = BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
    return Boxes(boxes), np.array([ann["area"] for ann in annotations])


def _iou_of_best_proposals(proposals: Instances, gt_boxes: Boxes) -> np.ndarray:
    order = proposals.objectness_logits.argsort(descending=True)[: max(LIMITS)]
    return pairwise_iou(proposals.proposal_boxes[order], gt_boxes).numpy()
