"""Pictures of anchors: what is painted, and where."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.data.transforms import ResizeTransform
from detectron2.engine import DefaultPredictor
from detectron2.structures import Boxes, BoxMode, Instances
from tiny_run import write_config

from anchor_heads import get_cfg
from anchor_heads.anchor_generation.strategy import LocationMap
from anchor_heads.visualization import anchor_pictures
from anchor_heads.visualization.anchor_pictures import (
    PANEL_SIDE,
    anchor_panels,
    annotated_objects,
    paint_anchors,
    paint_location_map,
    picture_of_anchors,
    stand_in_objects,
)
from anchor_heads.visualization.inspected_anchors import InspectedAnchors

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
    painted = paint_location_map(image(), location_map, (50, 100), highest=0.8)
    brightness = painted.sum(axis=2)
    rows, columns = np.nonzero(brightness == brightness.max())
    assert (columns.min(), columns.max() + 1) == (left, left + 32)
    assert (rows.min(), rows.max() + 1) == (top, top + 32)
    assert len(rows) == 32 * 32


def test_colors_of_location_maps_can_be_compared():
    low = LocationMap("p4", torch.full((4, 7), 0.2), 0.01, stride=16, offset=0.5)
    high = LocationMap("p4", torch.full((4, 7), 0.9), 0.01, stride=16, offset=0.5)
    dim, bright = (paint_location_map(image(), x, (50, 100), highest=0.9) for x in (low, high))
    assert dim.astype(int).sum() < 0.7 * bright.astype(int).sum()


def test_anchors_are_where_they_belong_and_the_strongest_is_on_top():
    overlapping = [[10, 10, 40, 40], [10, 10, 40, 40], [60, 10, 90, 40]]
    painted = paint_anchors(image(), inspected(overlapping, [0.9, 0.1, 0.1]), boxes())
    assert painted.shape == (100, 200, 3)
    changed = (painted != painted[0, 0]).any(axis=2)
    assert changed[20, 20:80].all() and changed[79, 20:80].all()  # at twice the size
    assert changed[20:80, 20].all() and changed[20:80, 179].all()
    assert not changed[23:77, 23:77].any() and not changed[:, 84:119].any()
    strong, weak = painted[50, 20].astype(int), painted[50, 120].astype(int)
    assert strong.sum() > 1.5 * weak.sum()


def test_objects_are_on_top_of_the_anchors():
    everywhere = [[10, 10, 40, 40]]
    painted = paint_anchors(image(), inspected(everywhere, [0.9]), boxes(*everywhere))
    assert (painted[50, 20] == CYAN).all()
    assert not (painted[50, 19] == CYAN).all() and (painted[50, 19] != painted[0, 0]).any()


def test_anchors_beyond_all_bounds_are_painted_too():
    painted = paint_anchors(image(), inspected([[-1e9, 10, 1e12, 40]], [0.5]), boxes())
    assert (painted[20] != painted[0, 0]).any(axis=1).all()


def test_annotated_objects_are_resized_and_crowds_left_out():
    def annotation(box, **more):
        return {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, **more}

    annotations = [
        annotation([10, 20, 30, 40], segmentation=[[0, 0, 1, 1, 2, 2]], iscrowd=0),
        annotation([10, 20, 30, 40], iscrowd=1),
        annotation([10, 20, 0, 40]),
    ]
    objects = annotated_objects(annotations, ResizeTransform(100, 200, 50, 400), (50, 400))
    assert objects.gt_boxes.tensor.tolist() == [[20, 10, 80, 30]]
    assert objects.gt_classes.tolist() == [1]
    assert annotations[0]["bbox"] == [10, 20, 30, 40]
    assert len(annotated_objects([], ResizeTransform(100, 200, 50, 400), (50, 400))) == 0


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
    assert source == "2 detections, for lack of annotated objects"
    assert found.pred_boxes.tensor[0].tolist() == [10, 20, 40, 60]
    assert len(stand_in_objects(found, (50, 400), score_threshold=0.4)[0]) == 3


def test_the_best_proposals_stand_in_for_objects():
    logits = torch.arange(30.0)
    rows = torch.stack([logits, logits, logits + 5, logits + 5], dim=1)
    found = Instances((50, 100), proposal_boxes=Boxes(rows), objectness_logits=logits)
    objects, source = stand_in_objects(found, (50, 100))
    assert objects.gt_boxes.tensor[:, 0].tolist() == list(range(29, 19, -1))
    assert objects.gt_classes.tolist() == [0] * 10
    assert source == "best 10 proposals, for lack of annotated objects"


def arguments_of(monkeypatch, name, position):
    """A list that collects an argument of each call of a function."""
    function, collected = getattr(anchor_pictures, name), []

    def call(*args):
        collected.append(args[position])
        return function(*args)

    monkeypatch.setattr(anchor_pictures, name, call)
    return collected


def test_panels_with_their_captions(monkeypatch):
    captions = arguments_of(monkeypatch, "wrapped", 0)
    legends = arguments_of(monkeypatch, "write", 1)
    probability = torch.tensor([[0.83, 0.001], [0.01, 0.002]])
    maps = [LocationMap(f"p{i}", probability, 0.01, 32, 0.5) for i in (3, 4, 5)]
    found = Instances(
        (100, 200),
        pred_boxes=boxes([10, 20, 40, 60]),
        scores=torch.tensor([0.3]),
        pred_classes=torch.tensor([1]),
    )
    objects = Instances((50, 100), gt_boxes=boxes([10, 10, 40, 40]))
    of_maps = inspected([[10, 10, 40, 40]], [0.25], location_maps=maps)
    picture = anchor_panels(image(), of_maps, objects, "1 annotated object", found, METADATA)
    assert captions == [
        "Location p3: max 0.83, 50.0 % at or above 0.01",
        "Location p4: max 0.83, 50.0 % at or above 0.01",
        "Location p5: max 0.83, 50.0 % at or above 0.01",
        "Some anchors. Cyan: 1 annotated object",
        "0 detections with a score from 50% on",
    ]
    assert legends == ["probability 0 ", " 0.83"] * 3 + ["likelihood 0 ", " 0.25"]
    height, width = picture.shape[:2]
    assert width // 320 == 3 and 2 * 100 < height < 2 * 200

    without = anchor_panels(
        image(), inspected([], []), objects, "1 annotated object", found, METADATA
    )
    assert without.shape[1] // 320 == 2 and without.shape[0] < 200

    captions.clear()
    lower = anchor_panels(image(), inspected([], []), objects, "", found, METADATA, 0.3)
    assert captions[-1] == "1 detection with a score from 30% on"
    assert (lower != anchor_panels(image(), inspected([], []), objects, "", found, METADATA)).any()


MODELS = {
    "RetinaNet": (2, "1 annotated object"),
    "FreeAnchorRetinaNet": (2, "1 annotated object"),
    "GuidedAnchorRetinaNet": (5, "1 annotated object"),
    "GeneralizedRCNN": (2, "1 annotated object"),
    "ProposalNetwork": (2, None),
}


@pytest.mark.parametrize("name", MODELS)
def test_picture_of_an_image(tmp_path, name):
    num_panels, source = MODELS[name]
    cfg = get_cfg()
    cfg.merge_from_file(write_config(tmp_path, name))
    predictor = DefaultPredictor(cfg)
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    annotations = [{"bbox": [5, 5, 40, 30], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1}]
    picture = picture_of_anchors(predictor, pixels, METADATA, source and annotations)
    columns, rows = {2: (2, 1), 5: (3, 2)}[num_panels]
    height, width = picture.shape[:2]
    assert columns * PANEL_SIDE <= width < columns * PANEL_SIDE + 20
    assert rows * PANEL_SIDE * 3 / 4 < height < rows * (PANEL_SIDE * 3 / 4 + 100)


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
