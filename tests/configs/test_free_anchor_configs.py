"""FreeAnchor's configs, against what the published code trains with."""

import pytest
from detectron2.engine import DefaultTrainer
from shipped_configs import (
    ENHANCED_JITTER,
    JITTER,
    ON_COCO,
    ONE_SIZE,
    X1,
    X1_5,
    X2,
    assert_nine_anchors,
    assert_values,
    build_without_memory,
    changed,
    load,
    names_in,
    shapes_of,
    trained_with,
)

# The published models: depth, groups, width, stride in the 1x1, schedule, short sides in training.
PUBLISHED = {
    "free_anchor_R_50_FPN_1x": (50, 1, 64, True, X1, ONE_SIZE),
    "free_anchor_R_101_FPN_1x": (101, 1, 64, True, X1, ONE_SIZE),
    "free_anchor_R_101_FPN_1.5x": (101, 1, 64, True, X1_5, ONE_SIZE),
    "free_anchor_R_101_FPN_j2x": (101, 1, 64, True, X2, JITTER),
    "free_anchor_R_101_FPN_e2x": (101, 1, 64, True, X2, ENHANCED_JITTER),
    "free_anchor_X_101_32x8d_FPN_j1.5x": (101, 32, 8, False, X1_5, JITTER),
    "free_anchor_X_101_64x4d_FPN_j2x": (101, 64, 4, False, X2, JITTER),
    "free_anchor_X_101_64x4d_FPN_e2x": (101, 64, 4, False, X2, ENHANCED_JITTER),
}

# The ImageNet files; the first convolution of each holds the deviation of the pixels.
WEIGHTS = {
    "R_50": "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    "R_101": "detectron2://ImageNetPretrained/MSRA/R-101.pkl",
    "X_101_32x8d": "catalog://ImageNetPretrained/FAIR/X-101-32x8d",
    "X_101_64x4d": "catalog://ImageNetPretrained/FAIR/X-101-64x4d",
}

# What all of them have in common.
COMMON = {
    **ON_COCO,
    "MODEL.META_ARCHITECTURE": "FreeAnchorRetinaNet",
    "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
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
    "INPUT.FORMAT": "BGR",
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.WARMUP_METHOD": "linear",
    "SOLVER.WARMUP_FACTOR": 1 / 3,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "TEST.AUG.ENABLED": False,
    "TEST.AUG.MIN_SIZES": (480, 640, 800, 960, 1120, 1280),
    "TEST.AUG.MAX_SIZE": 2133,
    "TEST.AUG.FLIP": False,
}


def test_every_published_free_anchor_model_is_in_the_table():
    two_stage = {"free_anchor_rpn_R_50_FPN_1x", "free_anchor_faster_rcnn_R_50_FPN_1x"}
    assert names_in("free_anchor") == set(PUBLISHED) | two_stage


@pytest.mark.parametrize("name", PUBLISHED)
def test_free_anchor_config_has_the_published_values(name):
    depth, groups, width, stride_in_1x1, (iterations, steps), short_sides = PUBLISHED[name]
    backbone = name.removeprefix("free_anchor_").split("_FPN_")[0]
    expected = COMMON | {
        "MODEL.WEIGHTS": WEIGHTS[backbone],
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width,
        "MODEL.RESNETS.STRIDE_IN_1X1": stride_in_1x1,
        "SOLVER.MAX_ITER": iterations,
        "SOLVER.STEPS": steps,
        "INPUT.MIN_SIZE_TRAIN": short_sides,
    }
    assert_values(f"free_anchor/{name}.yaml", expected)


def test_free_anchor_has_nine_anchors_around_each_cell_centre():
    name = "free_anchor/free_anchor_R_50_FPN_1x.yaml"
    assert_nine_anchors(name, strides=[8, 16, 32, 64, 128], base_scale=4, centre=0.5)


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
    trained = trained_with("free_anchor/free_anchor_R_50_FPN_1x.yaml")
    for name, rate_and_decay in trained.items():
        expected = (0.02, 0.0) if name.endswith(".bias") else (0.01, 0.0001)
        assert rate_and_decay == expected, name
    assert "backbone.bottom_up.res3.0.conv1.weight" in trained
    assert not {name for name in trained if ".stem." in name or ".res2." in name}


def test_free_anchor_is_retinanet_but_for_the_input_of_p6():
    free_anchor = build_without_memory(load("free_anchor/free_anchor_R_50_FPN_1x.yaml"))
    retinanet = build_without_memory(load("baselines/retinanet_R_50_FPN_1x.yaml"))
    assert shapes_of(retinanet)["backbone.top_block.p6.weight"] == (256, 2048, 3, 3)
    expected = shapes_of(retinanet) | {"backbone.top_block.p6.weight": (256, 256, 3, 3)}
    assert shapes_of(free_anchor) == expected


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
    assert shapes_of(model) == shapes_of(baseline)
