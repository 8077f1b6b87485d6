"""Warnings about settings of another method."""

import logging

import pytest
from detectron2 import model_zoo as detectron2_zoo
from detectron2.modeling import build_model

from anchor_heads import get_cfg, model_zoo

SIZES = "MODEL.ANCHOR_GENERATOR.SIZES"
TINY = ["MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64]
TINY += ["MODEL.RESNETS.NUM_GROUPS", 1, "MODEL.FPN.OUT_CHANNELS", 32, "MODEL.RESNETS.NORM", "BN"]
TINY += ["MODEL.RESNETS.DEFORM_ON_PER_STAGE", [False] * 4, "MODEL.ROI_BOX_HEAD.FC_DIM", 8]
TINY += ["MODEL.RETINANET.NORM", "", "MODEL.TIMM.PRETRAINED", False, "MODEL.WEIGHTS", ""]


def warnings_of(caplog, path, *overrides):
    """Of building a model, in one string."""
    cfg = get_cfg()
    cfg.merge_from_file(path)
    cfg.merge_from_list([*TINY, *overrides])
    # Not all of the loggers above it pass their records on, once a run has set them up.
    logger = logging.getLogger("anchor_heads.anchor_generation.strategy")
    logger.addHandler(caplog.handler)
    try:
        build_model(cfg)
    finally:
        logger.removeHandler(caplog.handler)
    return "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "method, keys",
    [
        ("FreeAnchor", ["RETINANET.BBOX_REG_WEIGHTS", "RETINANET.SMOOTH_L1_LOSS_BETA"]),
        ("DynamicAnchor", ["ANCHOR_GENERATOR.SIZES [[128], [256], [512], [1024], [2048]]"]),
    ],
)
def test_detectron2s_retinanet_config_with_another_architecture(caplog, method, keys):
    path = detectron2_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    text = warnings_of(caplog, path, "MODEL.META_ARCHITECTURE", f"{method}RetinaNet")
    assert f"{method}RetinaNet: " in text
    for key in keys:
        assert f"MODEL.{key}" in text


@pytest.mark.parametrize(
    "method, sizes",
    [
        ("FreeAnchor", None),
        ("GuidedAnchor", "[[32.0, 40.317, 50.797], [64.0,"),
        ("DynamicAnchor", "[[64], [128], [256], [512], [1024]]"),
    ],
)
def test_detectron2s_faster_rcnn_config_with_another_proposal_generator(caplog, method, sizes):
    path = detectron2_zoo.get_config_file("COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml")
    text = warnings_of(caplog, path, "MODEL.PROPOSAL_GENERATOR.NAME", f"{method}RPN")
    assert "MODEL.RPN.BBOX_REG_WEIGHTS (1" in text and "MODEL.RPN.SMOOTH_L1_BETA" in text
    assert (SIZES not in text) if sizes is None else (f"{SIZES} {sizes}" in text)


def test_free_anchors_iou_likelihood_does_not_depend_on_the_weights_of_the_deltas(caplog):
    path = detectron2_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    changes = ["MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "iou"]
    assert not warnings_of(caplog, path, "MODEL.META_ARCHITECTURE", "FreeAnchorRetinaNet", *changes)


def test_a_loss_of_boxes_does_not_depend_on_the_weights_of_the_deltas(caplog):
    path = model_zoo.get_config_file("quick_start/da_faster_rcnn")
    weights = ["MODEL.RPN.BBOX_REG_WEIGHTS", (1.0, 1.0, 1.0, 1.0)]
    assert "deltas hardly count" in warnings_of(caplog, path, *weights)
    caplog.clear()
    assert not warnings_of(caplog, path, *weights, "MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou")


@pytest.mark.parametrize("name", ["free_anchor", "ga_retinanet", "da_retinanet", "ga_faster_rcnn"])
def test_levels_with_different_numbers_of_anchors_are_refused(caplog, name):
    path = model_zoo.get_config_file(f"quick_start/{name}")
    with pytest.raises(ValueError, match="levels have .* sizes times aspect ratios"):
        warnings_of(caplog, path, SIZES, [[16, 20], [32], [64], [128], [256]])


OWN_DATA = [name for name in model_zoo.list_configs() if name.startswith("own_data/")]
PUBLISHED = [
    f"{folder}/{name}_R_50_FPN_1x.yaml"
    for folder, names in {
        "free_anchor": ("free_anchor", "free_anchor_rpn"),
        "guided_anchoring": ("ga_retinanet", "ga_rpn"),
        "dynamic_anchor": ("da_retinanet", "da_rpn"),
    }.items()
    for name in names
]


@pytest.mark.parametrize("name", [*PUBLISHED, *OWN_DATA])
def test_no_shipped_config_has_a_problem(caplog, name):
    assert not warnings_of(caplog, model_zoo.get_config_file(name))
