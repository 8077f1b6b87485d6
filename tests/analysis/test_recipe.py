import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from anchor_heads import model_zoo
from anchor_heads.analysis.recipe import median_aspect_ratio, recipe

LINES = np.array([[80.0, 8.0], [40.0, 10.0], [10.0, 10.0], [0.0, 5.0]])  # width, height


def test_median_aspect_ratio_is_height_over_width_of_boxes_with_area():
    assert median_aspect_ratio(LINES) == 0.25
    assert median_aspect_ratio(np.zeros((0, 2))) == 1.0


@pytest.mark.parametrize(
    "config, key",
    [("da_faster_rcnn", "DYNAMIC_ANCHOR"), ("ga_retinanet", "GUIDED_ANCHOR")],
)
def test_predicted_anchors_start_from_the_median_shape(config, key):
    cfg = model_zoo.get_config(f"own_data/{config}")
    cfg.MODEL.TIMM.PRETRAINED = False
    changes = recipe(cfg, LINES)
    assert changes[f"MODEL.{key}.BASE_ASPECT_RATIO"] == 0.25
    for item in changes.items():
        cfg.merge_from_list(list(item))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        build_model(cfg)  # takes them


def test_guided_anchoring_samples_shapes_around_the_median():
    cfg = model_zoo.get_config("own_data/ga_faster_rcnn")
    changes = recipe(cfg, LINES)
    assert changes["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"] == [[0.062, 0.12, 0.25, 0.5, 1.0]]


@pytest.mark.parametrize("config", ["retinanet", "free_anchor", "faster_rcnn"])
def test_preset_anchors_are_left_to_the_findings(config):
    assert recipe(model_zoo.get_config(f"own_data/{config}"), LINES) == {}
