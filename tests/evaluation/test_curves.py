import contextlib
import io
import json

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anchor_heads.evaluation.curves import best_f1, class_results, confusion_matrix, write_curves


def evaluated(objects, detections, num_classes=3, num_images=2):
    """Boxes as (image, class, x, crowd) and (image, class, x, score), 10 pixels wide and high at
    y = 0. Categories have the ids 10, 20, ..."""
    box = {"area": 100, "iscrowd": 0}
    ground_truth, found = COCO(), COCO()
    ground_truth.dataset = {
        "images": [{"id": i + 1} for i in range(num_images)],
        "categories": [{"id": 10 * (i + 1), "name": "abc"[i % 3]} for i in range(num_classes)],
        "annotations": [
            {**box, "id": n, "image_id": i, "category_id": 10 * c, "bbox": [x, 0, 10, 10]}
            | {"iscrowd": int(bool(crowd))}
            for n, (i, c, x, *crowd) in enumerate(objects, start=1)
        ],
    }
    found.dataset = {
        **ground_truth.dataset,
        "annotations": [
            {**box, "id": n, "image_id": i, "category_id": 10 * c, "bbox": [x, 0, 10, 10]}
            | {"score": score}
            for n, (i, c, x, score) in enumerate(detections, start=1)
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        ground_truth.createIndex(), found.createIndex()
        coco_eval = COCOeval(ground_truth, found, "bbox")
        coco_eval.evaluate(), coco_eval.accumulate()
    return coco_eval


OBJECTS = [(1, 1, 0), (1, 1, 20), (1, 2, 40), (2, 1, 0), (2, 2, 100, True)]
DETECTIONS = [
    (1, 1, 0, 0.9),  # right
    (1, 1, 1, 0.8),  # the same object again
    (1, 1, 20, 0.7),  # right
    (1, 1, 40, 0.6),  # taken for another class
    (2, 1, 60, 0.5),  # nothing there
    (2, 2, 100, 0.95),  # on a crowd
]


def test_results_per_class():
    a, b, c = class_results(evaluated(OBJECTS, DETECTIONS))
    assert (a.name, a.num_objects) == ("a", 3) and (b.name, b.num_objects) == ("b", 1)
    # right, wrong, right, wrong, wrong: F1 is 2 * 2 / (3 + 3) after the third
    assert a.best == pytest.approx((0.7, 2 / 3, 2 / 3, 2 / 3))
    # precision 1 up to recall 1/3, then 2/3 up to recall 2/3, of the points 0, 0.01, ...
    assert a.ap50 == pytest.approx((34 * 1 + 33 * 2 / 3) / 101)
    np.testing.assert_allclose(a.precision[[0, 33, 34, 66, 67]], [1, 1, 2 / 3, 2 / 3, 0])
    assert a.ap == pytest.approx(a.ap50)  # the boxes fit exactly, but for the one that is too late
    assert a.ar == pytest.approx(2 / 3)
    assert b.best is None and b.ap50 == 0
    assert c.num_objects == 0 and np.isnan(c.ap) and np.isnan(c.precision).all()


def test_best_f1_keeps_all_detections_of_a_score():
    scores = np.array([0.9, 0.5, 0.5, 0.5])
    # Cut after the second, F1 would be 1.
    best = best_f1(scores, np.array([True, True, False, False]), num_objects=2)
    assert best == pytest.approx((0.9, 1, 0.5, 2 / 3))
    assert best_f1(scores, np.zeros(4, bool), 2) is None
    assert best_f1(scores[:0], np.zeros(0, bool), 2) is None


def test_confusion_matrix():
    coco_eval = evaluated(OBJECTS, DETECTIONS)
    assert confusion_matrix(coco_eval, [0, 0, 0]).tolist() == [
        [2, 0, 0, 1],  # a: the one of image 2 is not found
        [1, 0, 0, 0],  # b is taken for a
        [0, 0, 0, 0],
        [2, 0, 0, 0],  # found twice, and nothing there; the one on a crowd is left out
    ]
    assert confusion_matrix(coco_eval, [0.85, 1, 1]).tolist() == [
        [1, 0, 0, 2],
        [0, 0, 0, 1],
        [0, 0, 0, 0],
        [0, 0, 0, 0],
    ]


@pytest.mark.parametrize("num_classes", [1, 3, 12, 40])
def test_files(tmp_path, num_classes):
    write_curves(evaluated(OBJECTS[:2], DETECTIONS[:5], num_classes), str(tmp_path / "new"))
    content = json.loads((tmp_path / "new/curves_bbox.json").read_text())
    assert content["iou_threshold"] == 0.5 and content["max_detections"] == 100
    assert len(content["classes"]) == num_classes
    a = content["classes"][0]
    assert a["best_f1"]["score"] == 0.7 and a["objects"] == 2
    assert len(a["precision"]) == len(content["recall"]) == 101
    matrix = content["confusion_matrix"]
    assert len(matrix["counts"]) == num_classes + 1 and matrix["counts"][0][0] == 2
    assert matrix["annotated"][-1] == "background"
    if num_classes > 1:
        assert content["classes"][1]["AP"] is None
    for name in ("precision_recall_bbox.png", "confusion_matrix.png"):
        assert min(cv2.imread(str(tmp_path / "new" / name)).shape[:2]) > 300


@pytest.mark.parametrize("objects, detections", [(OBJECTS, []), ([], DETECTIONS), ([], [])])
def test_without_objects_or_detections(tmp_path, objects, detections):
    write_curves(evaluated(objects, detections), str(tmp_path))
    content = json.loads((tmp_path / "curves_bbox.json").read_text())
    assert all(result["best_f1"] is None for result in content["classes"])
