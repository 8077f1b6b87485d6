"""NMS recall: the share of detected objects of a one-stage detector that NMS keeps.

As the FreeAnchor paper (NeurIPS 2019) defines it: the recall after NMS over the recall before, at
an IoU threshold, regardless of class. A detector whose best localised boxes do not have the highest
scores loses objects at high thresholds.

Shape shorthand in this module:

    G: ground-truth boxes, without crowds
    N: candidates of an image before NMS
    T: IoU thresholds
"""

import itertools
import logging
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from detectron2.utils import comm
from tabulate import tabulate

logger = logging.getLogger(__name__)

# float32 as the IoUs, so that "higher than" is exact.
IOU_THRESHOLDS = np.linspace(0.5, 0.9, 9, dtype=np.float32)
# The paper uses 0.5; the others show how the result depends on it.
NMS_THRESHOLDS = (0.3, 0.5, 0.7)


def best_overlaps(
    gt_boxes: Boxes, candidates: Instances, nms_thresholds: Sequence[float]
) -> torch.Tensor:
    """The highest IoU of each object with any candidate, before and after NMS per class.

    Args:
        gt_boxes (Boxes): of shape (G, 4).
        candidates (Instances): with "pred_boxes" (N, 4), "scores" (N,) and "pred_classes" (N,).
        nms_thresholds (sequence of float): NMS removes a box if its IoU with a better one of the
            same class is higher.

    Returns:
        Tensor: of shape (G, 1 + len(nms_thresholds)): before NMS, then after NMS at each
        threshold; 0 where there are no candidates.
    """
    boxes, scores, classes = candidates.pred_boxes, candidates.scores, candidates.pred_classes
    if len(boxes) == 0 or len(gt_boxes) == 0:
        return torch.zeros(len(gt_boxes), 1 + len(nms_thresholds))
    iou = pairwise_iou(gt_boxes.to(boxes.device), boxes)  # (G, N)
    kept = [batched_nms(boxes.tensor, scores, classes, nms) for nms in nms_thresholds]
    overlaps = [iou.amax(dim=1), *(iou[:, keep].amax(dim=1) for keep in kept)]
    return torch.stack(overlaps, dim=1).cpu()


def nms_recall(
    overlaps_before: np.ndarray,
    overlaps_after: np.ndarray,
    iou_thresholds: Sequence[float] = IOU_THRESHOLDS,
) -> np.ndarray:
    """The share of the objects found before NMS that are also found after it.

    Args:
        overlaps_before, overlaps_after (ndarray): of shape (G,), over all images: the highest IoU
            of each object with any candidate before NMS and after it.
        iou_thresholds (sequence of float): an object is found if its IoU is higher than this.

    Returns:
        ndarray: of shape (T,), from 0 to 1; 0 where no object is found before NMS.
    """
    thresholds = np.asarray(iou_thresholds, dtype=np.float32)
    found_before = (overlaps_before[:, None] > thresholds).sum(axis=0)
    found_after = (overlaps_after[:, None] > thresholds).sum(axis=0)
    return found_after / np.maximum(1, found_before)


class NMSRecallEvaluator(DatasetEvaluator):
    """NMS recall of a one-stage model, at one or several NMS thresholds.

    The model must run inside :func:`anchor_heads.modeling.one_stage.candidates_before_nms`; this
    evaluator does the NMS. Images without objects are left out.
    """

    def __init__(self, dataset_name: str, nms_thresholds: Sequence[float] = NMS_THRESHOLDS):
        """
        Args:
            dataset_name (str): a registered data set with annotations.
            nms_thresholds (sequence of float): IoU thresholds of NMS.
        """
        self._nms_thresholds = tuple(nms_thresholds)
        self._gt_boxes = {
            record["image_id"]: _gt_boxes(record) for record in DatasetCatalog.get(dataset_name)
        }
        self.reset()

    def reset(self):
        self._overlaps = []

    def process(self, inputs, outputs):
        """
        Args:
            inputs (list[dict]): with "image_id".
            outputs (list[dict]): with "instances", the candidates before NMS in the frame of the
                original image.
        """
        for single_input, output in zip(inputs, outputs, strict=True):
            gt_boxes = self._gt_boxes[single_input["image_id"]]
            self._overlaps.append(
                best_overlaps(gt_boxes, output["instances"], self._nms_thresholds)
            )

    def evaluate(self):
        """
        Returns:
            dict: {"nms_recall": metrics in percent}. "NR@0.5" is, for NMS at 0.5, the mean over
            the IoU thresholds 0.50, 0.55, .., 0.90, and "NR80@0.5" the value at IoU 0.8. Empty if
            there are no objects, and in all processes but the main one.
        """
        gathered = comm.gather(self._overlaps, dst=0)
        if not comm.is_main_process():
            return {}
        overlaps = [*itertools.chain(*gathered)]
        if not any(map(len, overlaps)):
            logger.warning("No annotated objects: NMS recall cannot be computed.")
            return {}
        before, *after = torch.cat(overlaps).numpy().T
        rows = [_summary(nms_recall(before, x)) for x in after]
        self._log_table(rows)
        return {
            "nms_recall": {
                f"{name}@{nms:g}": value
                for nms, row in zip(self._nms_thresholds, rows, strict=True)
                for name, value in row.items()
            }
        }

    def _log_table(self, rows: list[dict[str, float]]) -> None:
        cells = [[nms, *row.values()] for nms, row in zip(self._nms_thresholds, rows, strict=True)]
        table = tabulate(cells, ["NMS at", *rows[0]], tablefmt="pipe", floatfmt=("g", *[".3f"] * 6))
        logger.info("NMS recall:\n" + table)


def _summary(recall: np.ndarray) -> dict[str, float]:
    """The mean and, as in the published tables, every second value."""
    shown = zip(IOU_THRESHOLDS[::2], recall[::2], strict=True)
    return {
        "NR": 100 * float(recall.mean()),
        **{f"NR{100 * iou:.0f}": 100 * float(value) for iou, value in shown},
    }


def _gt_boxes(record: dict) -> Boxes:
    boxes = [
        BoxMode.convert(ann["bbox"], ann["bbox_mode"], BoxMode.XYXY_ABS)
        for ann in record.get("annotations", ())
        if not ann.get("iscrowd", 0)
    ]
    return Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
