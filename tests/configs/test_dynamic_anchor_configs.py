"""Dynamic Anchor's configs, against what the published code trains with."""

import pytest
from detectron2.engine import DefaultTrainer
from shipped_configs import (
    GRADIENT_CLIP,
    ON_COCO,
    X1,
    X2,
    assert_values,
    build_without_memory,
    changed,
    load,
    mmdetection_backbone,
    names_in,
    shapes_of,
)

# The Dynamic Anchor models: backbone and schedule.
PUBLISHED = {
    "da_retinanet_R_50_FPN_1x": ("R_50", X1),
    "da_retinanet_R_50_FPN_2x": ("R_50", X2),
    "da_retinanet_R_101_FPN_1x": ("R_101", X1),
    "da_retinanet_R_101_FPN_2x": ("R_101", X2),
    "da_retinanet_X_101_32x4d_FPN_1x": ("X_101_32x4d", X1),
    "da_rpn_R_50_FPN_1x": ("R_50", X1),
    "da_faster_rcnn_R_50_FPN_1x": ("R_50", X1),
}

# What all of them have in common, the pixel statistics of ResNeXt too.
COMMON = {
    **ON_COCO,
    **GRADIENT_CLIP,
    "INPUT.FORMAT": "BGR",
    "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.ANCHOR_GENERATOR.OFFSET": 0.5,
    "MODEL.DYNAMIC_ANCHOR.BASE_ASPECT_RATIO": 1.0,
    "MODEL.DYNAMIC_ANCHOR.LEVEL_BY_SHORT_SIDE": False,
    "MODEL.DYNAMIC_ANCHOR.KAIMING_INIT": False,
    "MODEL.DYNAMIC_ANCHOR.CENTER_RADIUS": 2.0,
    "MODEL.DYNAMIC_ANCHOR.SHAPE_LOSS_WEIGHT": 1.0,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0001,
    "SOLVER.WEIGHT_DECAY_BIAS": 0.0,
    "SOLVER.BIAS_LR_FACTOR": 2.0,
    "SOLVER.BIAS_RULE_FOR_ALL": False,
    "SOLVER.WARMUP_METHOD": "constant",
    "SOLVER.WARMUP_FACTOR": 1 / 3,
}

RETINANET = {
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

RPN = {
    "MODEL.PROPOSAL_GENERATOR.NAME": "DynamicAnchorRPN",
    "MODEL.ANCHOR_GENERATOR.SIZES": [[64], [128], [256], [512], [1024]],
    "MODEL.DYNAMIC_ANCHOR.RPN.MIN_IOU": 0.3,
    "SOLVER.BASE_LR": 0.02,
}


def test_every_dynamic_anchor_model_is_in_the_table():
    assert names_in("dynamic_anchor") == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_dynamic_anchor_config_has_the_published_values(name):
    backbone, (iterations, steps) = PUBLISHED[name]
    kind = RETINANET if "retinanet" in name else RPN
    schedule = {"SOLVER.MAX_ITER": iterations, "SOLVER.STEPS": steps}
    expected = COMMON | kind | schedule | mmdetection_backbone(backbone)
    assert_values(f"dynamic_anchor/{name}.yaml", expected)


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
    shapes = shapes_of(model.head)
    assert shapes["fusion_conv_x.weight"] == shapes["fusion_conv_y.weight"] == (128, 256, 1, 1)
    assert shapes["fusion.weight"] == (256, 256, 1, 1)
    assert shapes["anchor_convs.3.conv.conv_offset.weight"] == (27, 256, 3, 3)
    assert shapes["feature_attention.conv_offset.weight"] == (72, 2, 1, 1)
    assert [name for name in shapes if name.startswith("scales")] == [
        f"scales.{i}.scale" for i in range(5)
    ]


def test_quick_start_of_da_retinanet_differs_from_its_baseline_in_anchors_matching_and_length():
    cfg, baseline = load("quick_start/da_retinanet.yaml"), load("quick_start/retinanet.yaml")
    assert changed(cfg, baseline) == {
        "MODEL.META_ARCHITECTURE",
        "MODEL.ANCHOR_GENERATOR.SIZES",
        "MODEL.RETINANET.PRIOR_PROB",
        "MODEL.RETINANET.IOU_THRESHOLDS",
        "MODEL.DYNAMIC_ANCHOR.KAIMING_INIT",
        "SOLVER.MAX_ITER",
    }


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
