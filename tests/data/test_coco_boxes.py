import numpy as np
import pytest

from anchor_heads.data.coco_boxes import CENTRES, CORNERS, NORMALISED, clean_boxes, likely_format

WIDTH, HEIGHT = 200, 100


@pytest.fixture
def corners():
    """Corners of 200 boxes inside of an image."""
    rng = np.random.default_rng(0)
    sides = rng.uniform(5, 60, (200, 2))
    start = rng.uniform(0, 1, (200, 2)) * ([WIDTH, HEIGHT] - sides)
    return np.concatenate([start, start + sides], 1)


def guess(boxes):
    return likely_format(boxes, np.tile([WIDTH, HEIGHT], (len(boxes), 1)))


def test_formats_are_told_apart(corners):
    start, end = corners[:, :2], corners[:, 2:]
    size, sides = end - start, np.array([WIDTH, HEIGHT])
    assert guess(np.concatenate([start, size], 1)) is None
    assert guess(corners) == CORNERS
    assert guess(np.concatenate([(start + end) / 2, size], 1)) == CENTRES
    for pair in ((start, size), (start, end), ((start + end) / 2, size)):
        assert guess(np.concatenate([x / sides for x in pair], 1)) == NORMALISED


def test_a_few_wrong_boxes_are_no_other_format(corners):
    boxes = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    boxes[:15, 2:] *= 10
    assert guess(boxes) is None
    boxes[:100, 2:] *= 10  # many, but as corners or centres they are outside as well
    assert guess(boxes) is None
    assert guess(corners[:3]) is None
    assert guess(corners[:0]) is None


def test_small_images_may_have_coordinates_up_to_1():
    assert likely_format(np.full((5, 4), 0.5), np.full((5, 2), 8)) is None


def test_boxes_are_clipped():
    boxes = np.array([[-5, 0, 10, 10.0], [0, 0, 200, 100.001], [10, 10, 0, 5], [300, 0, 10, 10]])
    cleaned = clean_boxes(boxes, np.tile([WIDTH, HEIGHT], (4, 1)))
    assert cleaned.boxes[:2].tolist() == [[0, 0, 5, 10], [0, 0, 200, 100]]
    assert cleaned.is_clipped.tolist() == [True, False, False, True]
    assert cleaned.is_changed.tolist() == [True, True, False, True]
    assert cleaned.has_size.tolist() == [True, True, False, True]
    assert cleaned.is_inside.tolist() == [True, True, False, False]
