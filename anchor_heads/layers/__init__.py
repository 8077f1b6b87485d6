"""Layers and losses that Detectron2, fvcore and torchvision lack, or have on some devices only."""

from .at_locations import by_location, conv3x3_at, rows, rows_at, surroundings
from .deform_conv import DeformConv, ModulatedDeformConv, deform_conv2d, deform_conv2d_at
from .losses import bounded_iou_loss

__all__ = [
    "DeformConv",
    "ModulatedDeformConv",
    "bounded_iou_loss",
    "by_location",
    "conv3x3_at",
    "deform_conv2d",
    "deform_conv2d_at",
    "rows",
    "rows_at",
    "surroundings",
]
