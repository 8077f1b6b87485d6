"""The shipped configs, against what the published code and Detectron2 train with."""

from pathlib import Path

import detectron2
import numpy as np
import pytest
import torch
from detectron2.checkpoint.catalog import ModelCatalog
from detectron2.config import CfgNode
from detectron2.data.detection_utils import build_augmentation
from detectron2.engine import DefaultTrainer
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, build_model
from detectron2.modeling.anchor_generator import build_anchor_generator
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY

from anchor_heads import get_cfg
from anchor_heads.backbone import FixedStatisticsBatchNorm2d
from anchor_heads.engine.optimizer import build_optimizer

CONFIGS = Path(__file__).parent.parent / "configs"
EVERY_CONFIG = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))
DETECTRON2_CONFIGS = Path(detectron2.__file__).parent / "model_zoo/configs/COCO-Detection"

ONE_SIZE = (800,)
JITTER = (640, 672, 704, 736, 768, 800)
ENHANCED_JITTER = tuple(range(480, 961, 32))
X1 = (90000, (60000, 80000))
X1_5 = (135000, (90000, 120000))
X2 = (180000, (120000, 160000))

# The published models: depth, groups, width, stride in the 1x1, schedule, short sides in training.
FREE_ANCHOR = {
    "free_anchor_R_50_FPN_1x": (50, 1, 64, True, X1, ONE_SIZE),
    "free_anchor_R_101_FPN_1x": (101, 1, 64, True, X1, ONE_SIZE),
    "free_anchor_R_101_FPN_1.5x": (101, 1, 64, True, X1_5, ONE_SIZE),
    "free_anchor_R_101_FPN_j2x": (101, 1, 64, True, X2, JITTER),
    "free_anchor_R_101_FPN_e2x": (101, 1, 64, True, X2, ENHANCED_JITTER),
    "free_anchor_X_101_32x8d_FPN_j1.5x": (101, 32, 8, False, X1_5, JITTER),
    "free_anchor_X_101_64x4d_FPN_j2x": (101, 64, 4, False, X2, JITTER),
    "free_anchor_X_101_64x4d_FPN_e2x": (101, 64, 4, False, X2, ENHANCED_JITTER),
}

# What all of them have in common.
FREE_ANCHOR_COMMON = {
    "MODEL.META_ARCHITECTURE": "FreeAnchorRetinaNet",
    "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.FPN.P6_INPUT": "p5",
    "MODEL.FPN.P7_RELU": True,
    "MODEL.RETINANET.NUM_CLASSES": 80,
    "MODEL.RETINANET.NUM_CONVS": 4,
    "MODEL.RETINANET.NORM": "",
    "MODEL.RETINANET.PRIOR_PROB": 0.02,
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.11,
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.05,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 1000,
    "MODEL.RETINANET.NMS_THRESH_TEST": 0.5,
    "MODEL.FREE_ANCHOR.BAG_SIZE": 50,
    "MODEL.FREE_ANCHOR.BOX_IOU_THRESH": 0.6,
    "MODEL.FREE_ANCHOR.BOX_LOSS_WEIGHT": 0.75,
    "MODEL.FREE_ANCHOR.ALPHA": 0.5,
    "MODEL.FREE_ANCHOR.GAMMA": 2.0,
    "MODEL.FREE_ANCHOR.LEGACY_BOXES": False,
    "DATASETS.TRAIN": ("coco_2017_train",),
    "DATASETS.TEST": ("coco_2017_val",),
    "DATALOADER.ASPECT_RATIO_GROUPING": True,
    "INPUT.FORMAT": "BGR",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.RANDOM_FLIP": "horizontal",
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.REFERENCE_WORLD_SIZE": 8,
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.WEIGHT_DECAY": 0.0001,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.WARMUP_ITERS": 500,
    "SOLVER.WARMUP_FACTOR": 1 / 3,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "TEST.AUG.ENABLED": False,
    "TEST.AUG.MIN_SIZES": (480, 640, 800, 960, 1120, 1280),
    "TEST.AUG.MAX_SIZE": 2133,
    "TEST.AUG.FLIP": False,
}

# The published Guided Anchoring models, and the file of each backbone's ImageNet weights.
GA_BACKBONES = {
    "R_50": "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    "R_101": "detectron2://ImageNetPretrained/MSRA/R-101.pkl",
    "X_101_32x4d": "https://download.openmmlab.com/pretrain/third_party/"
    "resnext101_32x4d-a5af3160.pth",
    "X_101_64x4d": "https://download.openmmlab.com/pretrain/third_party/"
    "resnext101_64x4d-ee2c6f71.pth",
}
GA_KINDS = ("ga_rpn", "ga_faster_rcnn", "ga_retinanet")
GUIDED_ANCHORING = {
    **{f"{kind}_{backbone}_FPN_1x": backbone for kind in GA_KINDS for backbone in GA_BACKBONES},
    "ga_retinanet_R_101_FPN_ms_2x": "R_101",
    "ga_fast_rcnn_R_50_FPN_1x": "R_50",
}

# Caffe style, and PyTorch style with the statistics of batch norm frozen.
GA_RESNET = {
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.NORM_EVAL": False,
    "INPUT.FORMAT": "BGR",
}
GA_RESNEXT = {
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.NORM_EVAL": True,
    "INPUT.FORMAT": "RGB",
}

# What all of them have in common.
GA_COMMON = {
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.FPN.NORM": "",
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
    "MODEL.GUIDED_ANCHOR.LOCATION_THRESH": 0.01,
    "MODEL.GUIDED_ANCHOR.CENTER_RATIO": 0.2,
    "MODEL.GUIDED_ANCHOR.IGNORE_RATIO": 0.5,
    "MODEL.GUIDED_ANCHOR.LOCATION_PRIOR_PROB": 0.01,
    "MODEL.GUIDED_ANCHOR.LOCATION_FOCAL_ALPHA": 0.25,
    "MODEL.GUIDED_ANCHOR.LOCATION_FOCAL_GAMMA": 2.0,
    "MODEL.GUIDED_ANCHOR.LOCATION_LOSS_WEIGHT": 1.0,
    "MODEL.GUIDED_ANCHOR.INVERTED_LOCATION_LABEL": False,
    "MODEL.GUIDED_ANCHOR.SHAPE_BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.GUIDED_ANCHOR.SHAPE_POSITIVE_FRACTION": 0.5,
    "MODEL.GUIDED_ANCHOR.SHAPE_LOSS_BETA": 0.2,
    "MODEL.GUIDED_ANCHOR.SHAPE_LOSS_WEIGHT": 1.0,
    "DATASETS.TRAIN": ("coco_2017_train",),
    "DATASETS.TEST": ("coco_2017_val",),
    "DATALOADER.ASPECT_RATIO_GROUPING": True,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    "INPUT.MIN_SIZE_TRAIN": ONE_SIZE,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.RANDOM_FLIP": "horizontal",
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.REFERENCE_WORLD_SIZE": 8,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.WEIGHT_DECAY": 0.0001,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0001,
    "SOLVER.WEIGHT_DECAY_BIAS": None,  # the same as WEIGHT_DECAY
    "SOLVER.BIAS_LR_FACTOR": 1.0,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.MAX_ITER": X1[0],
    "SOLVER.STEPS": X1[1],
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.WARMUP_ITERS": 500,
    "SOLVER.WARMUP_FACTOR": 0.001,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 35.0,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}

# What the published settings are for each kind of model.
GA_RPN = {
    "MODEL.META_ARCHITECTURE": "ProposalNetwork",
    "MODEL.PROPOSAL_GENERATOR.NAME": "GuidedAnchorRPN",
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_p6_backbone",
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.GUIDED_ANCHOR.RPN.SHAPE_STD": 0.14,
    "MODEL.GUIDED_ANCHOR.RPN.SHAPE_IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.GUIDED_ANCHOR.RPN.SHAPE_MIN_IOU": 0.3,
    "MODEL.GUIDED_ANCHOR.RPN.MIN_IOU": 0.3,
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.IOU_LABELS": [0, -1, 1],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.BBOX_REG_WEIGHTS": (1 / 0.07, 1 / 0.07, 1 / 0.11, 1 / 0.11),
    "MODEL.RPN.BBOX_REG_LOSS_TYPE": "smooth_l1",
    "MODEL.RPN.SMOOTH_L1_BETA": 1.0,
    "MODEL.RPN.LOSS_WEIGHT": 1.0,
    "MODEL.RPN.BBOX_REG_LOSS_WEIGHT": 1.0,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "SOLVER.BASE_LR": 0.02,
}
GA_FASTER_RCNN = GA_RPN | {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 300,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 300,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_HEADS.NUM_CLASSES": 80,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.6],
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.PROPOSAL_APPEND_GT": True,
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.001,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO": 0,
    "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS": (20.0, 20.0, 10.0, 10.0),
    "MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE": "smooth_l1",
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.0,
    "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": False,
}
GA_RETINANET = {
    "MODEL.META_ARCHITECTURE": "GuidedAnchorRetinaNet",
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_p6p7_backbone",
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.P6_INPUT": "res5",
    "MODEL.FPN.P7_RELU": False,
    "MODEL.GUIDED_ANCHOR.RETINANET.SHAPE_STD": 1.0,
    "MODEL.GUIDED_ANCHOR.RETINANET.SHAPE_IOU_THRESHOLDS": [0.4, 0.5],
    "MODEL.GUIDED_ANCHOR.RETINANET.SHAPE_MIN_IOU": 0.4,
    "MODEL.GUIDED_ANCHOR.RETINANET.MIN_IOU": 0.0,
    "MODEL.RETINANET.NUM_CLASSES": 80,
    "MODEL.RETINANET.NUM_CONVS": 4,
    "MODEL.RETINANET.NORM": "",
    "MODEL.RETINANET.PRIOR_PROB": 0.01,
    "MODEL.RETINANET.IOU_THRESHOLDS": [0.5],
    "MODEL.RETINANET.IOU_LABELS": [0, 1],
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": 0.25,
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": 2.0,
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.04,
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.05,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 1000,
    "MODEL.RETINANET.NMS_THRESH_TEST": 0.5,
    "SOLVER.BASE_LR": 0.01,
}
GA_BY_KIND = {
    "ga_rpn": GA_RPN,
    "ga_faster_rcnn": GA_FASTER_RCNN,
    "ga_fast_rcnn": GA_FASTER_RCNN
    | {
        "MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals",
        "MODEL.LOAD_PROPOSALS": True,
        "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 300,
        "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
    },
    "ga_retinanet": GA_RETINANET,
}

# The names that end in another schedule than 1x.
GA_BY_SCHEDULE = {
    "ms_2x": {
        "INPUT.MIN_SIZE_TRAIN": (480, 960),
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range",
        "SOLVER.MAX_ITER": X2[0],
        "SOLVER.STEPS": X2[1],
        "SOLVER.WARMUP_FACTOR": 1 / 3,
    },
    "1x": {},
}

# The Dynamic Anchor models: backbone and schedule.
DYNAMIC_ANCHOR = {
    "da_retinanet_R_50_FPN_1x": ("R_50", X1),
    "da_retinanet_R_50_FPN_2x": ("R_50", X2),
    "da_retinanet_R_101_FPN_1x": ("R_101", X1),
    "da_retinanet_R_101_FPN_2x": ("R_101", X2),
    "da_retinanet_X_101_32x4d_FPN_1x": ("X_101_32x4d", X1),
    "da_rpn_R_50_FPN_1x": ("R_50", X1),
    "da_faster_rcnn_R_50_FPN_1x": ("R_50", X1),
}

# What all of them have in common, the pixel statistics of ResNeXt too.
DA_COMMON = {
    "INPUT.FORMAT": "BGR",
    "INPUT.MIN_SIZE_TRAIN": ONE_SIZE,
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.RANDOM_FLIP": "horizontal",
    "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.FPN.NORM": "",
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
    "MODEL.DYNAMIC_ANCHOR.CENTER_RADIUS": 2.0,
    "MODEL.DYNAMIC_ANCHOR.SHAPE_LOSS_WEIGHT": 1.0,
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.REFERENCE_WORLD_SIZE": 8,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.WEIGHT_DECAY": 0.0001,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0001,
    "SOLVER.WEIGHT_DECAY_BIAS": 0.0,
    "SOLVER.BIAS_LR_FACTOR": 2.0,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.WARMUP_METHOD": "constant",
    "SOLVER.WARMUP_ITERS": 500,
    "SOLVER.WARMUP_FACTOR": 1 / 3,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 35.0,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}
DA_RETINANET = {
    "MODEL.META_ARCHITECTURE": "DynamicAnchorRetinaNet",
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.P6_INPUT": "p5",
    "MODEL.FPN.P7_RELU": True,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[128], [256], [512], [1024], [2048]],
    "MODEL.DYNAMIC_ANCHOR.RETINANET.MIN_IOU": 0.0,
    "MODEL.DYNAMIC_ANCHOR.RETINANET.QUALITY_LOSS_WEIGHT": 1.0,
    "MODEL.DYNAMIC_ANCHOR.RETINANET.ALWAYS_BOX_LOSS": False,
    "MODEL.DYNAMIC_ANCHOR.RETINANET.THRESH_ON_PRODUCT": False,
    "MODEL.RETINANET.NUM_CLASSES": 80,
    "MODEL.RETINANET.NUM_CONVS": 4,
    "MODEL.RETINANET.NORM": "GN",
    "MODEL.RETINANET.PRIOR_PROB": 0.01,
    "MODEL.RETINANET.IOU_THRESHOLDS": [0.5],
    "MODEL.RETINANET.IOU_LABELS": [0, 1],
    "MODEL.RETINANET.FOCAL_LOSS_ALPHA": 0.25,
    "MODEL.RETINANET.FOCAL_LOSS_GAMMA": 2.0,
    "MODEL.RETINANET.BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
    "MODEL.RETINANET.SCORE_THRESH_TEST": 0.05,
    "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 1000,
    "MODEL.RETINANET.NMS_THRESH_TEST": 0.5,
    "SOLVER.BASE_LR": 0.01,
}
DA_RPN = {
    "MODEL.PROPOSAL_GENERATOR.NAME": "DynamicAnchorRPN",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[64], [128], [256], [512], [1024]],
    "MODEL.DYNAMIC_ANCHOR.RPN.MIN_IOU": 0.3,
    "SOLVER.BASE_LR": 0.02,
}


def load(name):
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / name), allow_unsafe=False)
    return cfg


def flat(node, prefix=""):
    """``{"MODEL.FPN.NORM": "", ...}``"""
    items = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            items.update(flat(value, f"{prefix}{key}."))
        else:
            items[prefix + key] = value
    return items


def changed(cfg, other):
    """The keys that have not the same value in both."""
    cfg, other = flat(cfg), flat(other)
    return {key for key in cfg.keys() | other.keys() if cfg.get(key) != other.get(key)}


def build_without_memory(cfg):
    """The model on the meta device: shapes and names, no storage and no initialisation."""
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def number_of_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", EVERY_CONFIG)
def test_config_has_only_known_keys_and_names_registered_parts(name):
    cfg = load(name)
    assert cfg.MODEL.META_ARCHITECTURE in META_ARCH_REGISTRY
    generator = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    assert generator == "PrecomputedProposals" or generator in PROPOSAL_GENERATOR_REGISTRY
    assert cfg.MODEL.BACKBONE.NAME in BACKBONE_REGISTRY
    if cfg.MODEL.WEIGHTS.startswith("catalog://"):
        assert ModelCatalog.get(cfg.MODEL.WEIGHTS[len("catalog://") :]).endswith(".pkl")


def test_every_published_free_anchor_model_is_in_the_table():
    names = {Path(name).stem for name in EVERY_CONFIG if name.startswith("free_anchor/")}
    two_stage = {"free_anchor_rpn_R_50_FPN_1x", "free_anchor_faster_rcnn_R_50_FPN_1x"}
    assert names == set(FREE_ANCHOR) | two_stage


@pytest.mark.parametrize("name", FREE_ANCHOR)
def test_free_anchor_config_has_the_published_values(name):
    depth, groups, width, stride_in_1x1, (iterations, steps), short_sides = FREE_ANCHOR[name]
    cfg = load(f"free_anchor/{name}.yaml")
    expected = FREE_ANCHOR_COMMON | {
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width,
        "MODEL.RESNETS.STRIDE_IN_1X1": stride_in_1x1,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": steps,
        "INPUT.MIN_SIZE_TRAIN": short_sides,
    }
    actual = flat(cfg)
    assert {key: actual[key] for key in expected} == expected


@pytest.mark.parametrize(
    "name, weights, pixel_std",
    [
        ("R_50_FPN_1x", "detectron2://ImageNetPretrained/MSRA/R-50.pkl", [1.0, 1.0, 1.0]),
        ("R_101_FPN_e2x", "detectron2://ImageNetPretrained/MSRA/R-101.pkl", [1.0, 1.0, 1.0]),
        (
            "X_101_32x8d_FPN_j1.5x",
            "detectron2://ImageNetPretrained/FAIR/X-101-32x8d.pkl",
            [57.375, 57.120, 58.395],  # as Detectron2's own configs of this file
        ),
        # the Caffe2 files have the deviation in the first convolution
        ("X_101_64x4d_FPN_e2x", "catalog://ImageNetPretrained/FAIR/X-101-64x4d", [1.0, 1.0, 1.0]),
    ],
)
def test_pixel_statistics_fit_the_image_net_weights(name, weights, pixel_std):
    cfg = load(f"free_anchor/free_anchor_{name}.yaml")
    assert cfg.MODEL.WEIGHTS == weights
    assert cfg.MODEL.PIXEL_STD == pixel_std


def test_free_anchor_has_nine_anchors_around_each_cell_centre():
    cfg = load("free_anchor/free_anchor_R_50_FPN_1x.yaml")
    strides = [8, 16, 32, 64, 128]
    generator = build_anchor_generator(cfg, [ShapeSpec(stride=stride) for stride in strides])
    levels = generator([torch.zeros(1, 1, 1, 1) for _ in strides])
    for stride, anchors in zip(strides, levels, strict=True):
        width, height = (anchors.tensor[:, 2:] - anchors.tensor[:, :2]).unbind(1)
        sides = 4 * stride * 2 ** (torch.arange(3) / 3)
        ratios = torch.tensor([0.5, 1.0, 2.0])
        centre = torch.full((9, 2), stride / 2)
        torch.testing.assert_close(anchors.get_centers(), centre, atol=1e-4, rtol=0)
        torch.testing.assert_close((width * height).sqrt(), sides.repeat_interleave(3))
        torch.testing.assert_close(height / width, ratios.repeat(3))


@pytest.mark.parametrize("name", ["retinanet", "rpn", "faster_rcnn"])
def test_baseline_differs_from_detectron2s_config_in_two_keys(name):
    ours = load(f"baselines/{name}_R_50_FPN_1x.yaml")
    cfg = get_cfg()
    cfg.merge_from_file(str(DETECTRON2_CONFIGS / f"{name}_R_50_FPN_1x.yaml"))
    assert changed(ours, cfg) == {"INPUT.MIN_SIZE_TRAIN", "SOLVER.REFERENCE_WORLD_SIZE"}
    assert ours.INPUT.MIN_SIZE_TRAIN == ONE_SIZE


@pytest.mark.parametrize("name", ["rpn", "faster_rcnn"])
def test_two_stage_free_anchor_differs_from_its_baseline_in_the_proposal_generator(name):
    cfg = load(f"free_anchor/free_anchor_{name}_R_50_FPN_1x.yaml")
    baseline = load(f"baselines/{name}_R_50_FPN_1x.yaml")
    assert changed(cfg, baseline) == {
        "MODEL.PROPOSAL_GENERATOR.NAME",
        "MODEL.RPN.BBOX_REG_WEIGHTS",
        "MODEL.RPN.SMOOTH_L1_BETA",
    }
    assert cfg.MODEL.PROPOSAL_GENERATOR.NAME == "FreeAnchorRPN"
    assert cfg.MODEL.RPN.BBOX_REG_WEIGHTS == (10.0, 10.0, 5.0, 5.0)
    assert cfg.MODEL.RPN.SMOOTH_L1_BETA == 0.11


def test_free_anchor_and_retinanet_see_the_same_images_for_as_long():
    differing = changed(
        load("free_anchor/free_anchor_R_50_FPN_1x.yaml"),
        load("baselines/retinanet_R_50_FPN_1x.yaml"),
    )
    assert not {key for key in differing if key.startswith(("INPUT.", "DATASETS.", "DATALOADER."))}
    assert not differing & {"SOLVER.IMS_PER_BATCH", "SOLVER.MAX_ITER", "SOLVER.STEPS"}


def test_one_worker_takes_eight_times_the_steps_at_an_eighth_of_the_rate():
    cfg = load("free_anchor/free_anchor_R_50_FPN_1x.yaml")
    solver = DefaultTrainer.auto_scale_workers(cfg, 1).SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR) == (2, 0.00125)
    assert (solver.MAX_ITER, solver.STEPS) == (720000, (480000, 640000))
    assert solver.WARMUP_ITERS == 4000


def test_free_anchor_trains_biases_at_twice_the_rate_without_decay():
    cfg = load("free_anchor/free_anchor_R_50_FPN_1x.yaml")
    model = build_without_memory(cfg)
    optimizer = build_optimizer(cfg, model)
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    trained = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            trained[name_of[parameter]] = (group["lr"], group["weight_decay"])
    for name, (lr, weight_decay) in trained.items():
        expected = (0.02, 0.0) if name.endswith(".bias") else (0.01, 0.0001)
        assert (lr, weight_decay) == expected, name
    assert "backbone.bottom_up.res3.0.conv1.weight" in trained
    assert not {name for name in trained if ".stem." in name or ".res2." in name}


def test_free_anchor_is_retinanet_but_for_the_input_of_p6():
    free_anchor = build_without_memory(load("free_anchor/free_anchor_R_50_FPN_1x.yaml"))
    retinanet = build_without_memory(load("baselines/retinanet_R_50_FPN_1x.yaml"))
    shapes = {name: p.shape for name, p in retinanet.named_parameters()}
    shapes["backbone.top_block.p6.weight"] = (256, 256, 3, 3)
    assert {name: p.shape for name, p in free_anchor.named_parameters()} == shapes
    difference = number_of_parameters(retinanet) - number_of_parameters(free_anchor)
    assert difference == (2048 - 256) * 256 * 9 == 4128768


@pytest.mark.parametrize(
    "name, channels_per_group", [("X_101_32x8d_FPN_j1.5x", 8), ("X_101_64x4d_FPN_e2x", 4)]
)
def test_resnext_models_build_with_grouped_3x3_convolutions(name, channels_per_group):
    model = build_without_memory(load(f"free_anchor/free_anchor_{name}.yaml"))
    first, second = model.backbone.bottom_up.res3[0].conv1, model.backbone.bottom_up.res3[0].conv2
    assert second.weight.shape == (512, 2 * channels_per_group, 3, 3)
    assert (first.stride, second.stride) == ((1, 1), (2, 2))
    assert len(model.backbone.bottom_up.res4) == 23


@pytest.mark.parametrize("name", ["rpn", "faster_rcnn"])
def test_two_stage_models_build_with_the_weights_of_their_baselines(name):
    model = build_without_memory(load(f"free_anchor/free_anchor_{name}_R_50_FPN_1x.yaml"))
    baseline = build_without_memory(load(f"baselines/{name}_R_50_FPN_1x.yaml"))
    assert type(model) is type(baseline)
    shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (model, baseline)]
    assert shapes[0] == shapes[1]


def test_every_published_guided_anchoring_model_is_in_the_table():
    names = {Path(name).stem for name in EVERY_CONFIG if name.startswith("guided_anchoring/")}
    assert names == set(GUIDED_ANCHORING)
    assert len(names) == 14


@pytest.mark.parametrize("name", GUIDED_ANCHORING)
def test_guided_anchoring_config_has_the_published_values(name):
    backbone = GUIDED_ANCHORING[name]
    kind, end = name.split(f"_{backbone}_FPN_")
    expected = GA_COMMON | GA_BY_KIND[kind] | GA_BY_SCHEDULE[end]
    expected |= GA_RESNEXT if "X" in backbone else GA_RESNET
    expected["MODEL.WEIGHTS"] = GA_BACKBONES[backbone]
    expected["MODEL.RESNETS.DEPTH"] = 50 if backbone == "R_50" else 101
    if "X" in backbone:
        expected["MODEL.RESNETS.NUM_GROUPS"] = 32 if "32x4d" in backbone else 64
    actual = flat(load(f"guided_anchoring/{name}.yaml"))
    assert {key: actual[key] for key in expected} == expected


@pytest.mark.parametrize("kind, finest", [("ga_rpn", 4), ("ga_retinanet", 8)])
def test_guided_anchoring_samples_nine_shapes_around_each_cell_corner(kind, finest):
    cfg = load(f"guided_anchoring/{kind}_R_50_FPN_1x.yaml")
    strides = [finest * 2**level for level in range(5)]
    generator = build_anchor_generator(cfg, [ShapeSpec(stride=stride) for stride in strides])
    levels = generator([torch.zeros(1, 1, 1, 1) for _ in strides])
    for level, shapes in enumerate(levels):
        width, height = (shapes.tensor[:, 2:] - shapes.tensor[:, :2]).unbind(1)
        sides = 32 * 2**level * 2 ** (torch.arange(3) / 3)
        torch.testing.assert_close(shapes.get_centers(), torch.zeros(9, 2), atol=1e-4, rtol=0)
        torch.testing.assert_close((width * height).sqrt(), sides.repeat_interleave(3))
        torch.testing.assert_close(height / width, torch.tensor([0.5, 1.0, 2.0]).repeat(3))


def test_stored_proposals_are_looked_for_where_a_ga_rpn_writes_them():
    """In a run that evaluates on two data sets, each has a folder of its own."""
    cfg = load("guided_anchoring/ga_fast_rcnn_R_50_FPN_1x.yaml")
    inference = "output/ga_rpn_R_50_FPN_1x/inference"
    train, test = cfg.DATASETS.PROPOSAL_FILES_TRAIN, cfg.DATASETS.PROPOSAL_FILES_TEST
    assert train == (f"{inference}/{cfg.DATASETS.TRAIN[0]}/box_proposals.pkl",)
    assert test == (f"{inference}/{cfg.DATASETS.TEST[0]}/box_proposals.pkl",)


def test_the_long_schedule_draws_every_whole_short_side():
    cfg = load("guided_anchoring/ga_retinanet_R_101_FPN_ms_2x.yaml")
    resize = build_augmentation(cfg, is_train=True)[0]
    image = np.zeros((600, 600, 3), np.uint8)
    sides = {resize.get_transform(image).new_h for _ in range(20000)}
    assert sides == set(range(480, 961))


def test_guided_anchoring_trains_every_parameter_with_decay():
    cfg = load("guided_anchoring/ga_faster_rcnn_X_101_32x4d_FPN_1x.yaml")
    model = build_without_memory(cfg)
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    trained = {}
    for group in build_optimizer(cfg, model).param_groups:
        for parameter in group["params"]:
            trained[name_of[parameter]] = (group["lr"], group["weight_decay"])
    assert set(trained.values()) == {(0.02, 0.0001)}
    bottom_up = "backbone.bottom_up."
    assert {bottom_up + f"res3.0.conv2.norm.{name}" for name in ("weight", "bias")} < trained.keys()
    assert not {name for name in trained if ".stem." in name or ".res2." in name}


@pytest.mark.parametrize("kind", GA_KINDS)
def test_guided_anchoring_models_build_on_resnext(kind):
    model = build_without_memory(load(f"guided_anchoring/{kind}_X_101_64x4d_FPN_1x.yaml"))
    bottom_up = model.backbone.bottom_up
    assert bottom_up.res3[0].conv2.weight.shape == (512, 8, 3, 3)
    assert (bottom_up.res3[0].conv1.stride, bottom_up.res3[0].conv2.stride) == ((1, 1), (2, 2))
    assert isinstance(bottom_up.res3[0].conv2.norm, FixedStatisticsBatchNorm2d)
    assert isinstance(bottom_up.stem.conv1.norm, FrozenBatchNorm2d)
    levels = (
        ["p3", "p4", "p5", "p6", "p7"] if kind == "ga_retinanet" else ["p2", "p3", "p4", "p5", "p6"]
    )
    assert list(model.backbone.output_shape()) == levels


def test_fast_rcnn_is_ga_faster_rcnn_without_its_proposal_generator():
    fast = build_without_memory(load("guided_anchoring/ga_fast_rcnn_R_50_FPN_1x.yaml"))
    faster = build_without_memory(load("guided_anchoring/ga_faster_rcnn_R_50_FPN_1x.yaml"))
    assert fast.proposal_generator is None
    shapes = {name: p.shape for name, p in faster.named_parameters()}
    shapes = {name: shape for name, shape in shapes.items() if "proposal_generator" not in name}
    assert {name: p.shape for name, p in fast.named_parameters()} == shapes


def test_quick_start_of_ga_retinanet_differs_from_its_baseline_in_losses_and_length():
    cfg, baseline = load("quick_start/ga_retinanet.yaml"), load("quick_start/retinanet.yaml")
    assert changed(cfg, baseline) == {
        "MODEL.META_ARCHITECTURE",
        "MODEL.RETINANET.IOU_THRESHOLDS",
        "MODEL.RETINANET.IOU_LABELS",
        "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA",
        "MODEL.GUIDED_ANCHOR.LOCATION_LOSS_WEIGHT",
        "MODEL.GUIDED_ANCHOR.SHAPE_BATCH_SIZE_PER_IMAGE",
        "SOLVER.MAX_ITER",
    }
    assert cfg.MODEL.META_ARCHITECTURE == "GuidedAnchorRetinaNet"
    for key in ("IOU_THRESHOLDS", "IOU_LABELS", "SMOOTH_L1_LOSS_BETA"):
        assert cfg.MODEL.RETINANET[key] == GA_RETINANET[f"MODEL.RETINANET.{key}"]


def test_quick_start_of_ga_faster_rcnn_differs_from_its_baseline_in_the_proposals():
    cfg, baseline = load("quick_start/ga_faster_rcnn.yaml"), load("quick_start/faster_rcnn.yaml")
    assert changed(cfg, baseline) == {
        "MODEL.PROPOSAL_GENERATOR.NAME",
        "MODEL.ANCHOR_GENERATOR.SIZES",
        "MODEL.RPN.BBOX_REG_WEIGHTS",
        "MODEL.RPN.SMOOTH_L1_BETA",
        "MODEL.RPN.POST_NMS_TOPK_TRAIN",
        "MODEL.RPN.POST_NMS_TOPK_TEST",
    }
    for key in ("BBOX_REG_WEIGHTS", "SMOOTH_L1_BETA", "POST_NMS_TOPK_TRAIN", "POST_NMS_TOPK_TEST"):
        assert cfg.MODEL.RPN[key] == GA_FASTER_RCNN[f"MODEL.RPN.{key}"]
    for sizes, [size] in zip(
        cfg.MODEL.ANCHOR_GENERATOR.SIZES, baseline.MODEL.ANCHOR_GENERATOR.SIZES, strict=True
    ):
        assert sizes == pytest.approx([size * 2 ** (octave / 3) for octave in range(3)], rel=1e-4)


def test_every_dynamic_anchor_model_is_in_the_table():
    names = {Path(name).stem for name in EVERY_CONFIG if name.startswith("dynamic_anchor/")}
    assert names == set(DYNAMIC_ANCHOR)


@pytest.mark.parametrize("name", DYNAMIC_ANCHOR)
def test_dynamic_anchor_config_has_the_published_values(name):
    backbone, (iterations, steps) = DYNAMIC_ANCHOR[name]
    expected = DA_COMMON | (DA_RETINANET if "retinanet" in name else DA_RPN)
    resnet = GA_RESNEXT if "X" in backbone else GA_RESNET
    resnet = {key: value for key, value in resnet.items() if key.startswith("MODEL.RESNETS.")}
    expected |= resnet | {
        "MODEL.WEIGHTS": GA_BACKBONES[backbone],
        "MODEL.RESNETS.DEPTH": 50 if backbone == "R_50" else 101,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": steps,
    }
    if "X" in backbone:
        expected["MODEL.RESNETS.NUM_GROUPS"] = 32
    actual = flat(load(f"dynamic_anchor/{name}.yaml"))
    assert {key: actual[key] for key in expected} == expected


def test_dynamic_anchor_on_four_workers_is_the_published_run():
    cfg = load("dynamic_anchor/da_retinanet_R_50_FPN_1x.yaml")
    solver = DefaultTrainer.auto_scale_workers(cfg, 4).SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.WARMUP_ITERS) == (8, 0.005, 1000)


@pytest.mark.parametrize("name", ["rpn", "faster_rcnn"])
def test_two_stage_dynamic_anchor_differs_from_its_baseline_in_proposals_and_training(name):
    cfg = load(f"dynamic_anchor/da_{name}_R_50_FPN_1x.yaml")
    baseline = load(f"baselines/{name}_R_50_FPN_1x.yaml")
    differing = {
        key for key in changed(cfg, baseline) if not key.startswith(("SOLVER.", "MODEL.PIXEL_"))
    }
    assert differing == {
        "MODEL.PROPOSAL_GENERATOR.NAME",
        "MODEL.ANCHOR_GENERATOR.SIZES",
        "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS",
        "MODEL.ANCHOR_GENERATOR.OFFSET",
        "MODEL.RPN.BBOX_REG_WEIGHTS",
        "MODEL.RPN.SMOOTH_L1_BETA",
    }


def test_dynamic_anchor_heads_have_the_published_widths():
    model = build_without_memory(load("dynamic_anchor/da_retinanet_R_50_FPN_1x.yaml"))
    shapes = {name: tuple(p.shape) for name, p in model.head.named_parameters()}
    assert shapes["fusion_conv_x.weight"] == shapes["fusion_conv_y.weight"] == (128, 256, 1, 1)
    assert shapes["fusion.weight"] == (256, 256, 1, 1)
    assert shapes["anchor_convs.3.conv.conv_offset.weight"] == (27, 256, 3, 3)
    assert shapes["feature_attention.conv_offset.weight"] == (72, 2, 1, 1)
    assert [name for name in shapes if name.startswith("scales")] == [
        f"scales.{i}.scale" for i in range(5)
    ]


def test_quick_start_of_da_retinanet_differs_from_its_baseline_in_anchors_and_matching():
    cfg, baseline = load("quick_start/da_retinanet.yaml"), load("quick_start/retinanet.yaml")
    assert changed(cfg, baseline) == {
        "MODEL.META_ARCHITECTURE",
        "MODEL.ANCHOR_GENERATOR.SIZES",
        "MODEL.RETINANET.IOU_THRESHOLDS",
        "MODEL.RETINANET.IOU_LABELS",
    }
    assert cfg.MODEL.RETINANET.IOU_THRESHOLDS == [0.5]


def test_quick_start_of_da_faster_rcnn_differs_from_its_baseline_in_the_proposals():
    cfg, baseline = load("quick_start/da_faster_rcnn.yaml"), load("quick_start/faster_rcnn.yaml")
    assert changed(cfg, baseline) == {
        "MODEL.PROPOSAL_GENERATOR.NAME",
        "MODEL.ANCHOR_GENERATOR.SIZES",
        "MODEL.RPN.BBOX_REG_WEIGHTS",
        "MODEL.RPN.SMOOTH_L1_BETA",
    }
    for [size], [other] in zip(
        cfg.MODEL.ANCHOR_GENERATOR.SIZES, baseline.MODEL.ANCHOR_GENERATOR.SIZES, strict=True
    ):
        assert size == 2 * other
