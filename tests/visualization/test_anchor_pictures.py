"""Pictures of anchors: what is painted, and where."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from tiny_run import write_config

from anchor_heads import get_cfg
from anchor_heads.anchor_generation.strategy import LocationMap
from anchor_heads.visualization import anchor_pictures
from anchor_heads.visualization.anchor_pictures import (
    PANEL_SIDE,
    draw_anchors,
    draw_location_map,
    picture_of_anchors,
    stand_in_objects,
)
from anchor_heads.visualization.drawing import draw_panels
from anchor_heads.visualization.inspected_anchors import InspectedAnchors, inspect_best_anchors

METADATA = Metadata(name="anchor_pictures_test", thing_classes=["cat", "dog"])
CYAN = (255, 255, 0)


def image(height=100, width=200):
    return np.full((height, width, 3), 100, np.uint8)


def inspected(boxes, scores, image_size=(50, 100), location_maps=()):
    return InspectedAnchors(
        image_size,
        torch.tensor(boxes).float().reshape(-1, 4),
        torch.tensor(scores),
        "likelihood",
        "Some anchors",
        list(location_maps),
    )


def boxes(*rows):
    return Boxes(torch.tensor(rows).float().reshape(-1, 4))


@pytest.mark.parametrize("offset,left,top", [(0.5, 96, 32), (0.0, 80, 16)])
def test_a_location_map_is_hottest_around_its_peak(offset, left, top):
    """Peak in column 3, row 1 of cells of 16 pixels, shown at twice the size."""
    probability = torch.full((4, 7), 0.1)
    probability[1, 3] = 0.8
    location_map = LocationMap("p4", probability, 0.01, stride=16, offset=offset)
    painted = draw_location_map(image(), location_map, (50, 100), highest=0.8)
    brightness = painted.sum(axis=2)
    rows, columns = np.nonzero(brightness == brightness.max())
    assert (columns.min(), columns.max() + 1) == (left, left + 32)
    assert (rows.min(), rows.max() + 1) == (top, top + 32)
    assert len(rows) == 32 * 32


def test_colors_of_location_maps_can_be_compared():
    low = LocationMap("p4", torch.full((4, 7), 0.2), 0.01, stride=16, offset=0.5)
    high = LocationMap("p4", torch.full((4, 7), 0.9), 0.01, stride=16, offset=0.5)
    dim, bright = (draw_location_map(image(), x, (50, 100), highest=0.9) for x in (low, high))
    assert dim.astype(int).sum() < 0.7 * bright.astype(int).sum()


def test_anchors_are_where_they_belong_and_the_highest_score_is_on_top():
    overlapping = [[10, 10, 40, 40], [10, 10, 40, 40], [60, 10, 90, 40]]
    painted = draw_anchors(image(), inspected(overlapping, [0.9, 0.1, 0.1]), boxes())
    assert painted.shape == (100, 200, 3)
    changed = (painted != painted[0, 0]).any(axis=2)
    assert changed[20, 20:80].all() and changed[79, 20:80].all()  # at twice the size
    assert changed[20:80, 20].all() and changed[20:80, 179].all()
    assert not changed[23:77, 23:77].any() and not changed[:, 84:119].any()
    strong, weak = painted[50, 20].astype(int), painted[50, 120].astype(int)
    assert strong.sum() > 1.5 * weak.sum()


def test_objects_are_on_top_of_the_anchors():
    everywhere = [[10, 10, 40, 40]]
    painted = draw_anchors(image(), inspected(everywhere, [0.9]), boxes(*everywhere))
    assert (painted[50, 20] == CYAN).all()
    assert not (painted[50, 19] == CYAN).all() and (painted[50, 19] != painted[0, 0]).any()


def test_anchors_beyond_all_bounds_are_painted_too():
    painted = draw_anchors(image(), inspected([[-1e9, 10, 1e12, 40]], [0.5]), boxes())
    assert (painted[20] != painted[0, 0]).any(axis=1).all()


def test_detections_stand_in_for_objects_from_their_score_on():
    found = Instances(
        (100, 200),
        pred_boxes=boxes([10, 20, 40, 60], [1, 2, 3, 4], [1, 2, 3, 4]),
        scores=torch.tensor([0.9, 0.5, 0.49]),
        pred_classes=torch.tensor([1, 0, 1]),
    )
    objects, source = stand_in_objects(found, (50, 400))
    assert objects.gt_boxes.tensor.tolist() == [[20, 10, 80, 30], [2, 1, 6, 2]]
    assert objects.gt_classes.tolist() == [1, 0] and objects.image_size == (50, 400)
    assert source == "detections (2), since no object is annotated"
    assert found.pred_boxes.tensor[0].tolist() == [10, 20, 40, 60]
    assert len(stand_in_objects(found, (50, 400), score_threshold=0.4)[0]) == 3


def test_the_best_proposals_stand_in_for_objects():
    logits = torch.arange(30.0)
    rows = torch.stack([logits, logits, logits + 5, logits + 5], dim=1)
    found = Instances((50, 100), proposal_boxes=Boxes(rows), objectness_logits=logits)
    objects, source = stand_in_objects(found, (50, 100))
    assert objects.gt_boxes.tensor[:, 0].tolist() == list(range(29, 19, -1))
    assert objects.gt_classes.tolist() == [0] * 10
    assert source == "best proposals (10), since no object is annotated"


MODELS = {
    "RetinaNet": 2,
    "FreeAnchorRetinaNet": 2,
    "GuidedAnchorRetinaNet": 5,
    "GeneralizedRCNN": 2,
    "ProposalNetwork": 2,
}


@pytest.fixture
def panels(monkeypatch):
    """The panels of the pictures that are drawn."""
    drawn = []

    def draw_and_keep(panels, columns):
        drawn.extend(panels)
        return draw_panels(panels, columns)

    monkeypatch.setattr(anchor_pictures, "draw_panels", draw_and_keep)
    return drawn


@pytest.mark.parametrize("name", MODELS)
def test_picture_of_an_image(tmp_path, panels, name):
    cfg = get_cfg()
    cfg.merge_from_file(write_config(tmp_path, name))
    predictor = DefaultPredictor(cfg)
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    annotations = [{"bbox": [5, 5, 40, 30], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}]
    annotations = None if name == "ProposalNetwork" else annotations
    picture = picture_of_anchors(predictor, pixels, METADATA, annotations)
    assert len(panels) == MODELS[name]
    assert {panel.image.shape for panel in panels} == {(PANEL_SIDE * 3 // 4, PANEL_SIDE, 3)}
    assert picture.shape[1] == pytest.approx((3 if len(panels) == 5 else 2) * PANEL_SIDE, abs=80)
    *_, anchors, found = panels
    source = "best proposals (10)" if annotations is None else "annotated objects (1)"
    assert source in anchors.caption
    expected = {"ProposalNetwork": "Best 30 of", "GeneralizedRCNN": "No detection has a score"}
    assert found.caption.startswith(expected.get(name, "No detection: no score is above the"))


def test_detections_below_the_threshold_are_better_than_none(tmp_path, panels):
    cfg = get_cfg()
    overrides = ["MODEL.RETINANET.SCORE_THRESH_TEST", 0.0]
    cfg.merge_from_file(write_config(tmp_path, "FreeAnchorRetinaNet", overrides))
    pixels = np.zeros((60, 80, 3), np.uint8)
    picture_of_anchors(DefaultPredictor(cfg), pixels, METADATA)
    anchors, found = panels
    assert found.caption.startswith("No detection has a score >= 50%. Shown: the best 5")
    assert "Cyan: detections (5), since no object is annotated" in anchors.caption


def test_location_maps_say_how_much_they_keep(tmp_path, panels):
    cfg = get_cfg()
    cfg.merge_from_file(write_config(tmp_path, "GuidedAnchorRetinaNet"))
    picture_of_anchors(DefaultPredictor(cfg), np.zeros((60, 80, 3), np.uint8), METADATA, [])
    maps = panels[:3]
    for panel, level in zip(maps, ("p3", "p4", "p5"), strict=True):
        assert panel.caption.startswith(f"Location {level}: at most 0.0")
        assert panel.legend == "probability"
    assert len({panel.highest for panel in maps}) == 1  # one colour scale


@pytest.mark.parametrize("threshold, number", [(0.0, 2), (1.0, 0)])
def test_the_best_anchor_of_each_object_is_shown(tmp_path, threshold, number):
    cfg = get_cfg()
    overrides = ["MODEL.GUIDED_ANCHOR.LOCATION_THRESH", threshold]
    cfg.merge_from_file(write_config(tmp_path, "GuidedAnchorRetinaNet", overrides))
    objects = boxes([0, 0, 20, 10], [30, 30, 45, 45])
    objects = Instances((48, 64), gt_boxes=objects)
    shown = inspect_best_anchors(build_model(cfg).eval(), torch.zeros(3, 48, 64), objects)
    assert len(shown.boxes) == len(shown.scores) == number and shown.image_size == (48, 64)
    iou = pairwise_iou(objects.gt_boxes, Boxes(shown.boxes))
    torch.testing.assert_close(shown.scores, iou.diagonal())
    assert f"the mean IoU is {shown.scores.sum() / 2:.2f}" in shown.caption


def test_the_model_gets_the_channels_that_it_wants(tmp_path):
    cfg = get_cfg()
    cfg.merge_from_file(write_config(tmp_path, "RetinaNet", ["INPUT.FORMAT", "RGB"]))
    predictor = DefaultPredictor(cfg)
    seen = []
    predictor.model.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]["image"]))
    blue = np.zeros((48, 64, 3), np.uint8)
    blue[..., 0] = 255
    picture_of_anchors(predictor, blue, METADATA, [])
    assert seen[0].shape == (3, 48, 64)
    assert seen[0].amax(dim=(1, 2)).tolist() == [0, 0, 255]
