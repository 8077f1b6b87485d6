"""Predictions for images, videos and a camera: pictures and COCO JSON."""

from anchor_heads.prediction.classes import image_ids, model_categories
from anchor_heads.prediction.coco_results import CocoResults
from anchor_heads.prediction.pictures import Pictures, Window, output_files
from anchor_heads.prediction.run import load_predictor, number_of_classes, predict, stop_on_ctrl_c
from anchor_heads.prediction.sources import Camera, find_sources

__all__ = [
    "Camera",
    "CocoResults",
    "Pictures",
    "Window",
    "find_sources",
    "image_ids",
    "load_predictor",
    "model_categories",
    "number_of_classes",
    "output_files",
    "predict",
    "stop_on_ctrl_c",
]
