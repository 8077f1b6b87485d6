"""Evaluation: COCO AP, recall of proposals, NMS recall, and images with drawn detections.

Results are in percent, in Detectron2's format: task -> metric -> number.
"""

from anchor_heads.evaluation.build import build_evaluator, metric_names
from anchor_heads.evaluation.coco import OfficialCOCOEvaluator
from anchor_heads.evaluation.nms_recall import NMSRecallEvaluator
from anchor_heads.evaluation.painted_images import PaintedImagesEvaluator

__all__ = [
    "NMSRecallEvaluator",
    "OfficialCOCOEvaluator",
    "PaintedImagesEvaluator",
    "build_evaluator",
    "metric_names",
]
