"""Pictures: size, content, and where the boxes are."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, Metadata
from detectron2.structures import Boxes, BoxMode, Instances

from anchor_heads.visualization.drawing import (
    MAX_LONG_SIDE,
    MIN_SHORT_SIDE,
    Panel,
    draw_detections,
    draw_ground_truth,
    draw_panels,
    ground_truth_beside_detections,
    lowered_threshold,
    picture_of_data_set,
)

METADATA = Metadata(name="visualization_test", thing_classes=["cat", "dog"])
GREY = 128


def image(height=320, width=400):
    return np.full((height, width, 3), GREY, np.uint8)


def detections(boxes, scores, classes):
    return Instances(
        (320, 400),
        pred_boxes=Boxes(torch.tensor(boxes).float().reshape(-1, 4)),
        scores=torch.tensor(scores),
        pred_classes=torch.tensor(classes, dtype=torch.long),
    )


def painted_area(picture):
    """x0, y0, x1, y1 of what is not grey; None if all is."""
    rows, columns = np.nonzero((picture != GREY).any(axis=2))
    return (columns.min(), rows.min(), columns.max(), rows.max()) if len(rows) else None


def test_box_and_label_are_where_the_detection_is():
    picture = draw_detections(image(), detections([[100, 50, 300, 250]], [0.9], [1]), METADATA)
    assert picture.shape == (320, 400, 3) and picture.dtype == np.uint8
    assert painted_area(picture) == pytest.approx((100, 50, 300, 250), abs=3)
    without_frame_and_label = picture[80:240, 110:290]
    assert (without_frame_and_label == GREY).all()


def test_only_detections_with_enough_score_are_painted():
    found = detections([[10, 10, 50, 50], [200, 200, 300, 300]], [0.9, 0.4], [0, 0])
    both = draw_detections(image(), found, METADATA, score_threshold=0.3)
    one = draw_detections(image(), found, METADATA, score_threshold=0.5)
    none = draw_detections(image(), found, METADATA, score_threshold=0.95)
    assert painted_area(both)[2] > 290 and painted_area(one)[2] < 150
    assert painted_area(none) is None


def test_masks_are_painted():
    found = detections([[100, 50, 300, 250]], [0.9], [1])
    found.pred_masks = torch.zeros(1, 320, 400, dtype=torch.bool)
    found.pred_masks[0, 100:200, 150:250] = True
    picture = draw_detections(image(), found, METADATA)
    assert (picture[110:190, 160:240] != GREY).any(axis=2).all()


def test_keypoints_are_painted_and_joined():
    found = detections([[100, 50, 300, 250]], [0.9], [1])
    found.pred_keypoints = torch.tensor([[[150, 100, 0.9], [250, 200, 0.9], [150, 200, 0.01]]])
    plain = draw_detections(image(), found, METADATA)
    changed = (plain[60:240, 110:290] != GREY).any(axis=2)  # without frame and label
    assert changed[40, 40] and changed[140, 140] and not changed[140, 40]  # the last is not sure
    assert not changed[90, 90]
    names = ["nose", "left_eye", "right_eye"]
    rules = [("nose", "left_eye", (255, 0, 0))]
    joined = Metadata(keypoint_names=names, keypoint_connection_rules=rules)
    assert (draw_detections(image(), found, joined)[150, 200] != GREY).any()


def test_small_images_are_enlarged_and_huge_ones_reduced():
    nothing = detections([], [], [])
    small = draw_detections(image(40, 60), nothing, METADATA)
    assert small.shape[:2] == (MIN_SHORT_SIDE, MIN_SHORT_SIDE * 60 // 40)
    huge = draw_detections(image(1000, 2666), nothing, METADATA)
    assert huge.shape[:2] == (500, MAX_LONG_SIDE)
    large = draw_detections(image(600, 800), nothing, METADATA)
    assert large.shape[:2] == (600, 800)


def test_colours_follow_the_class_and_leave_numpys_generator_alone():
    before = np.random.get_state()[1].copy()
    boxes = [[20, 20, 180, 180], [220, 20, 380, 180]]
    same = draw_detections(image(), detections(boxes, [0.9, 0.9], [0, 0]), METADATA)
    other = draw_detections(image(), detections(boxes, [0.9, 0.9], [0, 1]), METADATA)
    assert (np.random.get_state()[1] == before).all()
    middle_of_right_edges = (slice(80, 120), slice(370, 390))
    left_edge = same[100, 20]
    assert (same[100, 220] == left_edge).all()
    assert (other[middle_of_right_edges] != same[middle_of_right_edges]).any()


def test_ground_truth_from_a_record_and_from_instances():
    annotations = [
        {"bbox": [100, 50, 200, 200], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1},
    ]
    instances = Instances(
        (320, 400),
        gt_boxes=Boxes(torch.tensor([[100.0, 50.0, 300.0, 250.0]])),
        gt_classes=torch.tensor([1]),
    )
    from_record = draw_ground_truth(image(), {"annotations": annotations}, METADATA)
    from_instances = draw_ground_truth(image(), instances, METADATA)
    assert (from_record == from_instances).all()
    assert painted_area(from_record) == pytest.approx((100, 50, 300, 250), abs=3)
    crowd = draw_ground_truth(
        image(), {"annotations": [{**annotations[0], "iscrowd": 1}]}, METADATA
    )
    assert (crowd != from_record).any()  # its label says so
    assert painted_area(draw_ground_truth(image(), {}, METADATA)) is None


def test_both_beside_each_other():
    record = {"annotations": []}
    found = detections([[100, 50, 300, 250]], [0.9], [1])
    picture = ground_truth_beside_detections(image(), record, found, METADATA)
    height, width = picture.shape[:2]
    assert width == pytest.approx(800, abs=40) and height > 320
    left, right = picture[60:-20, 20 : width // 2 - 20], picture[60:-20, width // 2 + 20 : -20]
    assert painted_area(left) is None
    assert painted_area(right) is not None


def test_classes_without_names_are_numbered():
    found = detections([[9, 9, 99, 99]], [0.9], [7])
    numbers = Metadata(name="numbers", thing_classes=list("01234567"))
    numbered = draw_detections(image(), found, numbers)
    for metadata in (Metadata(name="nameless"), METADATA):  # the latter has two names
        assert (draw_detections(image(), found, metadata) == numbered).all()
    others = Metadata(name="others", thing_classes=list("abcdefgh"))
    assert (draw_detections(image(), found, others) != numbered).any()


def test_names_are_no_formulas():
    found = detections([[9, 9, 99, 99]], [0.9], [0])
    pictures = [
        draw_detections(image(), found, Metadata(thing_classes=[name])) for name in ("$_$", "$x$")
    ]
    assert (pictures[0] != pictures[1]).any()
    assert draw_panels([Panel(image(), "$_$", "$_$")], columns=1).size


def test_all_detections_are_drawn():
    """However many: the model's limit is TEST.DETECTIONS_PER_IMAGE."""
    found = detections(
        [[9, 9, 99, 99]] * 100 + [[200, 200, 300, 300]], [0.9] * 100 + [0.6], [0] * 101
    )
    assert painted_area(draw_detections(image(), found, METADATA))[2] > 290


def test_panels_are_in_reading_order_at_one_scale():
    images = [np.full((100, 200, 3), 60 * i, np.uint8) for i in range(3)]
    panels = [Panel(x, f"number {i}") for i, x in enumerate(images)]
    picture = draw_panels(panels, columns=2)
    height, width = picture.shape[:2]
    assert 360 < width < 440 and 200 < height < 300
    middles = [picture[height * y // 4, width * x // 4, 0] for y, x in ((1, 1), (1, 3), (3, 1))]
    assert middles == pytest.approx([0, 60, 120], abs=1)
    assert (picture[height * 3 // 4, width * 3 // 4] == 255).all()
    assert draw_panels(panels[:1], columns=2).shape[1] < 240


def test_a_panel_is_below_its_caption_and_above_its_legend():
    plain = draw_panels([Panel(image(), "")], columns=1)
    caption = draw_panels([Panel(image(), "words " * 40)], columns=1)
    legend = draw_panels([Panel(image(), "", "probability", 0.83)], columns=1)
    grey_rows = [np.flatnonzero((x[:, 200] == GREY).all(axis=1)) for x in (plain, caption, legend)]
    assert grey_rows[1][0] > grey_rows[0][0] + 50  # the caption is wrapped
    assert len(legend) - grey_rows[2][-1] > len(plain) - grey_rows[0][-1] + 30


@pytest.mark.parametrize("height, width", [(600, 5), (5, 600), (1, 1)])
def test_captions_and_legends_of_narrow_images_can_be_read(height, width):
    plain, captioned, whole = (
        draw_panels([Panel(image(height, width), *text)], columns=1)
        for text in ([""], ["a caption " * 3], ["a caption " * 3, "probability"])
    )
    assert plain.shape == pytest.approx((max(height, 100), max(width, 200), 3), abs=20)
    grey = (whole == GREY).all(axis=2)
    assert grey.any(axis=1).sum() == pytest.approx(height, rel=0.1, abs=2)
    assert 10 < len(captioned) - len(plain) < 50  # one or two lines
    colors = np.ptp(whole[-60:].astype(int), axis=2) > 50  # of the legend
    assert colors.any(axis=0).sum() > 80
    assert len(whole) > len(captioned)


def test_the_threshold_is_lowered_where_no_detection_has_it():
    found = detections([[9, 9, 99, 99]] * 7, [0.1, 0.313, 0.02, 0.2, 0.05, 0.01, 0.15], [0] * 7)
    threshold, text = lowered_threshold(found, 0.5)
    assert threshold == pytest.approx(0.05)
    assert text == "No detection has a score >= 50%. Shown: the best 5, with scores up to 31.3%"
    assert lowered_threshold(found, 0.2) == (0.2, "Detections with a score >= 20%: 2")
    assert lowered_threshold(found[:0], 0.5)[1].startswith("No detection: no score is above")


def test_the_scale_of_detections_may_be_given():
    found = detections([[100, 50, 300, 250]], [0.9], [1])
    picture = draw_detections(image(), found, METADATA, scale=0.5)
    assert picture.shape == (160, 200, 3)
    assert painted_area(picture) == pytest.approx((50, 25, 150, 125), abs=3)


@pytest.fixture
def data_set(tmp_path):
    records = []
    for i in range(3):
        path = str(tmp_path / f"{i}.png")
        cv2.imwrite(path, image(60, 80))
        records.append({"file_name": path, "image_id": i, "annotations": []})
    DatasetCatalog.register("visualization_test", lambda: records)
    return "visualization_test"


def test_picture_of_the_first_images_of_a_data_set(data_set):
    seen = []

    def predict(bgr):
        seen.append(bgr)
        boxes = Boxes(torch.tensor([[10.0, 10.0, 50.0, 50.0]]))
        proposals = Instances((60, 80), proposal_boxes=boxes, objectness_logits=torch.zeros(1))
        return {"proposals": proposals}

    one = picture_of_data_set(predict, data_set, num_images=1)
    assert len(seen) == 1 and seen[0].shape == (60, 80, 3)
    three = picture_of_data_set(predict, data_set, num_images=100)
    assert len(seen) == 4
    assert three.shape[0] > 1.5 * one.shape[0] and three.shape[1] > 1.5 * one.shape[1]
