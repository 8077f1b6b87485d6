"""Guided Anchoring's configs, against what the published code trains with."""

import numpy as np
import pytest
from detectron2.data.detection_utils import build_augmentation
from detectron2.layers import FrozenBatchNorm2d
from shipped_configs import (
    GRADIENT_CLIP,
    MMDETECTION_WEIGHTS,
    ON_COCO,
    X1,
    X2,
    assert_nine_anchors,
    assert_values,
    build_without_memory,
    changed,
    load,
    mmdetection_backbone,
    names_in,
    shapes_of,
    trained_with,
)

from anchor_heads.modeling.backbone import FixedStatisticsBatchNorm2d

KINDS = ("ga_rpn", "ga_faster_rcnn", "ga_retinanet")

PUBLISHED = {
    **{f"{kind}_{backbone}_FPN_1x": backbone for kind in KINDS for backbone in MMDETECTION_WEIGHTS},
    "ga_retinanet_R_101_FPN_ms_2x": "R_101",
    "ga_fast_rcnn_R_50_FPN_1x": "R_50",
}

# The pixels that each style of backbone gets.
CAFFE_PIXELS = {
    "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "INPUT.FORMAT": "BGR",
}
PYTORCH_PIXELS = {
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
    "INPUT.FORMAT": "RGB",
}

# What all of them have in common.
COMMON = {
    **ON_COCO,
    **GRADIENT_CLIP,
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.0,
    "MODEL.GUIDED_ANCHOR.LOCATION_THRESH": 0.01,
    "MODEL.GUIDED_ANCHOR.BASE_ASPECT_RATIO": 1.0,
    "MODEL.GUIDED_ANCHOR.LEVEL_BY_SHORT_SIDE": False,
    "MODEL.GUIDED_ANCHOR.KAIMING_INIT": False,
    "MODEL.GUIDED_ANCHOR.SHAPE_LOSS_TYPE": "bounded_iou",
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
    "SOLVER.WEIGHT_DECAY_NORM": 0.0001,
    "SOLVER.WEIGHT_DECAY_BIAS": None,  # the same as WEIGHT_DECAY
    "SOLVER.BIAS_LR_FACTOR": 1.0,
    "SOLVER.MAX_ITER": X1[0],
    "SOLVER.STEPS": X1[1],
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.WARMUP_FACTOR": 0.001,
}

# What the published settings are for each kind of model.
RPN = {
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

FASTER_RCNN = RPN | {
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

RETINANET = {
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

BY_KIND = {
    "ga_rpn": RPN,
    "ga_faster_rcnn": FASTER_RCNN,
    "ga_fast_rcnn": FASTER_RCNN
    | {
        "MODEL.PROPOSAL_GENERATOR.NAME": "PrecomputedProposals",
        "MODEL.LOAD_PROPOSALS": True,
        "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 300,
        "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
    },
    "ga_retinanet": RETINANET,
}

# The names that end in another schedule than 1x.
BY_SCHEDULE = {
    "ms_2x": {
        "INPUT.MIN_SIZE_TRAIN": (480, 960),
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range",
        "SOLVER.MAX_ITER": X2[0],
        "SOLVER.STEPS": X2[1],
        "SOLVER.WARMUP_FACTOR": 1 / 3,
    },
    "1x": {},
}


def test_every_published_guided_anchoring_model_is_in_the_table():
    assert names_in("guided_anchoring") == set(PUBLISHED)
    assert len(PUBLISHED) == 14


@pytest.mark.parametrize("name", PUBLISHED)
def test_guided_anchoring_config_has_the_published_values(name):
    backbone = PUBLISHED[name]
    kind, end = name.split(f"_{backbone}_FPN_")
    pixels = PYTORCH_PIXELS if backbone.startswith("X") else CAFFE_PIXELS
    expected = COMMON | BY_KIND[kind] | BY_SCHEDULE[end] | pixels | mmdetection_backbone(backbone)
    assert_values(f"guided_anchoring/{name}.yaml", expected)


@pytest.mark.parametrize("kind, finest", [("ga_rpn", 4), ("ga_retinanet", 8)])
def test_guided_anchoring_samples_nine_shapes_around_each_cell_corner(kind, finest):
    name = f"guided_anchoring/{kind}_R_50_FPN_1x.yaml"
    strides = [finest * 2**level for level in range(5)]
    assert_nine_anchors(name, strides, base_scale=32 // finest, centre=0.0)


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
    trained = trained_with("guided_anchoring/ga_faster_rcnn_X_101_32x4d_FPN_1x.yaml")
    assert set(trained.values()) == {(0.02, 0.0001)}
    norm = "backbone.bottom_up.res3.0.conv2.norm"
    assert {f"{norm}.weight", f"{norm}.bias"} < trained.keys()
    assert not {name for name in trained if ".stem." in name or ".res2." in name}


@pytest.mark.parametrize("kind", KINDS)
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
    expected = {
        name: shape for name, shape in shapes_of(faster).items() if "proposal_generator" not in name
    }
    assert shapes_of(fast) == expected


def test_quick_start_of_ga_retinanet_differs_from_its_baseline_in_anchors_losses_and_length():
    cfg, baseline = load("quick_start/ga_retinanet.yaml"), load("quick_start/retinanet.yaml")
    assert changed(cfg, baseline) == {
        "MODEL.META_ARCHITECTURE",
        "MODEL.ANCHOR_GENERATOR.SIZES",
        "MODEL.RETINANET.PRIOR_PROB",
        "MODEL.RETINANET.IOU_THRESHOLDS",
        "MODEL.RETINANET.BBOX_REG_LOSS_TYPE",
        "MODEL.GUIDED_ANCHOR.KAIMING_INIT",
        "MODEL.GUIDED_ANCHOR.SHAPE_LOSS_TYPE",
        "MODEL.GUIDED_ANCHOR.LOCATION_LOSS_WEIGHT",
        "MODEL.GUIDED_ANCHOR.RETINANET.SHAPE_IOU_THRESHOLDS",
        "SOLVER.MAX_ITER",
    }
    assert cfg.MODEL.META_ARCHITECTURE == "GuidedAnchorRetinaNet"
    assert cfg.MODEL.RETINANET.IOU_LABELS == [0, -1, 1]


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
        assert cfg.MODEL.RPN[key] == FASTER_RCNN[f"MODEL.RPN.{key}"]
    for sizes, [size] in zip(
        cfg.MODEL.ANCHOR_GENERATOR.SIZES, baseline.MODEL.ANCHOR_GENERATOR.SIZES, strict=True
    ):
        assert sizes == pytest.approx([size * 2 ** (octave / 3) for octave in range(3)], rel=1e-4)
