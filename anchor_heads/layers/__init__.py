"""Layers and losses that Detectron2, fvcore and torchvision lack, or have on some devices only."""

from .deform_conv import DeformConv, ModulatedDeformConvPack, deform_conv2d, deform_conv2d_at
from .exporting import is_exporting
from .initialization import init_prior_bias
from .losses import bounded_iou_loss, iou_loss
from .sparse_conv import flatten_hw, neighborhood_3x3, rows, rows_at, sparse_conv3x3

__all__ = [
    "DeformConv",
    "ModulatedDeformConvPack",
    "bounded_iou_loss",
    "flatten_hw",
    "init_prior_bias",
    "iou_loss",
    "is_exporting",
    "sparse_conv3x3",
    "deform_conv2d",
    "deform_conv2d_at",
    "rows",
    "rows_at",
    "neighborhood_3x3",
]
