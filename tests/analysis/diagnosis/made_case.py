"""Configs with made objects, for tests of what is found in them."""

import functools

import numpy as np
from detectron2.config import CfgNode

from anchor_heads import get_cfg
from anchor_heads.analysis.diagnosis import DiagnosisInput
from anchor_heads.analysis.diagnosis.diagnosis_input import build
from anchor_heads.analysis.diagnosis.training_data import Objects, TrainingData

SIZES, RATIOS = "MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"


def config(architecture="RetinaNet", *overrides):
    """A model on P3 to P5 (strides 8, 16, 32) with one square anchor of side 32, 64 or 128 around
    the middle of each cell, for the classes of :func:`made_case`."""
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = architecture
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.RESNETS.merge_from_list(["NORM", "FrozenBN", "RES2_OUT_CHANNELS", 8])
    cfg.MODEL.RESNETS.merge_from_list(["STEM_OUT_CHANNELS", 8, "WIDTH_PER_GROUP", 4])
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ROI_HEADS.merge_from_list(["NAME", "StandardROIHeads"])
    cfg.MODEL.ROI_BOX_HEAD.merge_from_list(["NAME", "FastRCNNConvFCHead", "NUM_FC", 1])
    cfg.MODEL.ROI_BOX_HEAD.merge_from_list(["FC_DIM", 8, "POOLER_RESOLUTION", 2])
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.RETINANET.IN_FEATURES = cfg.MODEL.RPN.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.RETINANET.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32], [64], [128]]
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[1.0]]
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    cfg.merge_from_list(list(overrides))
    return cfg


def proposal_config(generator, *overrides, architecture="ProposalNetwork"):
    return config(architecture, "MODEL.PROPOSAL_GENERATOR.NAME", generator, *overrides)


def made_case(cfg, *images, size=(640, 640), classes=0, left_out=0) -> DiagnosisInput:
    """A case with images of the same size, each given as a list of boxes (x0, y0, x1, y1), and so
    many that training leaves out."""
    counts = [len(boxes) for boxes in images]
    boxes = np.array([box for boxes in images for box in boxes], np.float32).reshape(-1, 4)
    image_sizes = np.tile(np.float32(size), (len(images), 1))
    objects = Objects(
        boxes=boxes,
        image_sizes=np.tile(np.float32(size), (len(boxes), 1)),
        classes=np.broadcast_to(np.asarray(classes, np.int64), len(boxes)),
        images=np.repeat(np.arange(len(images)), counts),
    )
    data = TrainingData(objects, image_sizes, ["cat", "dog"], left_out)
    return DiagnosisInput(cfg, data, *_build(cfg.dump()))


def case_of(*boxes, cfg=None) -> DiagnosisInput:
    """A case with one image."""
    return made_case(cfg or config(), list(boxes))


@functools.cache
def _build(dump):
    return build(CfgNode.load_cfg(dump))


def square(center, side):
    """A box around (center, center)."""
    return rectangle(center, side, side)


def rectangle(center, width, height):
    x, y = width / 2, height / 2
    return (center - x, center - y, center + x, center + y)


# Boxes that one anchor of config() fits exactly, on P3, P4 and P5.
FITTING = [square(84, 32), square(328, 64), square(304, 128)]
