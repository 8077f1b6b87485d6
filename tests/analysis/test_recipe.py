import numpy as np
import pytest

from anchor_heads import model_zoo
from anchor_heads.analysis.model_analysis import build_random_model
from anchor_heads.analysis.recipe import median_aspect_ratio, recipe
from anchor_heads.anchor_generation import get_anchor_strategy

LINES = np.array([[80.0, 8.0], [40.0, 10.0], [10.0, 10.0], [0.0, 5.0]])  # width, height


def recipe_of(config):
    """The config with its recipe, and the recipe."""
    pytest.importorskip("timm")
    cfg = model_zoo.get_config(f"own_data/{config}", ["MODEL.DEVICE", "cpu"])
    changes = recipe(get_anchor_strategy(build_random_model(cfg)), LINES)
    for item in changes.items():
        cfg.merge_from_list(list(item))
    return cfg, changes


def test_median_aspect_ratio_is_height_over_width_of_boxes_with_area():
    assert median_aspect_ratio(LINES) == 0.25
    assert median_aspect_ratio(np.zeros((0, 2))) == 1.0


def test_dynamic_anchors_start_from_the_median_shape():
    cfg, changes = recipe_of("da_faster_rcnn")
    assert changes == {
        "MODEL.DYNAMIC_ANCHOR.BASE_ASPECT_RATIO": 0.25,
        "MODEL.DYNAMIC_ANCHOR.LEVEL_BY_SHORT_SIDE": True,
    }
    generator = build_random_model(cfg).proposal_generator.dynamic_anchoring.square_generator
    assert next(iter(generator.cell_anchors)).tolist() == [[-16.0, -4.0, 16.0, 4.0]]


def test_guided_anchors_sample_shapes_around_the_median_too():
    cfg, changes = recipe_of("ga_retinanet")
    assert changes["MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"] == [[0.062, 0.12, 0.25, 0.5, 1.0]]
    generator = build_random_model(cfg).guided_anchoring.square_generator
    assert next(iter(generator.cell_anchors)).tolist() == [[-16.0, -4.0, 16.0, 4.0]]


@pytest.mark.parametrize("config", ["retinanet", "free_anchor", "faster_rcnn"])
def test_preset_anchors_are_left_as_they_are(config):
    assert recipe_of(config)[1] == {}
