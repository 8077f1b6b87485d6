"""Recall of proposals, against Detectron2's and by hand."""

import contextlib
import io
import math
import time

import numpy as np
import pytest
import torch
from detectron2.evaluation.coco_evaluation import _evaluate_box_proposals
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from anchor_heads.evaluation.proposal_recall import (
    LIMITS,
    average_recall,
    matched_overlaps,
    proposal_recall,
    recall_table,
)


def coco_of(boxes_per_image, crowd=()):
    """Ground truth of one class from {image id: xywh boxes}; ``crowd`` holds annotation ids."""
    annotations = [
        {"image_id": image_id, "bbox": list(box), "area": box[2] * box[3], "category_id": 1}
        for image_id, boxes in boxes_per_image.items()
        for box in boxes
    ]
    for i, annotation in enumerate(annotations, start=1):
        annotation.update(id=i, iscrowd=int(i in crowd))
    coco = COCO()
    coco.dataset = {
        "images": [{"id": i} for i in boxes_per_image],
        "categories": [{"id": 1, "name": "thing"}],
        "annotations": annotations,
    }
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def prediction(image_id, boxes, logits=None):
    boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    logits = -torch.arange(len(boxes)).float() if logits is None else torch.as_tensor(logits)
    proposals = Instances((500, 500), proposal_boxes=Boxes(boxes), objectness_logits=logits)
    return {"image_id": image_id, "proposals": proposals}


def random_case(num_images, num_proposals, rng):
    ground_truth, predictions = {}, []
    for image_id in range(num_images):
        sides = rng.uniform(8, 200, (rng.integers(0, 12), 2))
        xywh = np.concatenate([rng.uniform(0, 250, sides.shape), sides], axis=1)
        ground_truth[image_id] = xywh.tolist()
        corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
        around = np.repeat(corners, 30, axis=0) * rng.uniform(0.85, 1.15, (30 * len(xywh), 4))
        noise = rng.uniform(0, 250, (num_proposals, 4))
        noise[:, 2:] += noise[:, :2]
        boxes = rng.permutation(np.concatenate([around, noise]))[:num_proposals]
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        predictions.append(prediction(image_id, boxes, rng.normal(size=num_proposals)))
    return coco_of(ground_truth, crowd=[2, 5]), predictions


def test_equals_detectron2_where_every_image_has_proposals():
    coco, predictions = random_case(12, 1200, np.random.default_rng(0))
    ours = proposal_recall(predictions, coco)
    assert len(ours) == 4 * len(LIMITS)
    for limit in LIMITS:
        for area, suffix in {"all": "", "small": "s", "medium": "m", "large": "l"}.items():
            theirs = _evaluate_box_proposals(predictions, coco, area=area, limit=limit)["ar"]
            assert ours[f"AR{suffix}@{limit}"] == pytest.approx(100 * theirs.item(), abs=1e-4)
    assert 0 < ours["AR@100"] < ours["AR@300"] < ours["AR@1000"] < 100


def test_images_without_any_proposal_count():
    """Three objects of 40 x 40; one is hit exactly, one with IoU 0.6, one has no proposal."""
    coco = coco_of({1: [(0, 0, 40, 40), (100, 0, 40, 40)], 2: [(0, 0, 40, 40)]})
    found = prediction(1, [[0, 0, 40, 40], [100, 0, 124, 40]])
    result = proposal_recall([found, prediction(2, [])], coco)
    # At IoU 0.50, 0.55, 0.60: two of three; from 0.65 to 0.95: one of three.
    expected = 100 * (3 * 2 / 3 + 7 * 1 / 3) / 10
    for limit in LIMITS:
        assert result[f"AR@{limit}"] == pytest.approx(expected, abs=1e-4)
        assert result[f"ARm@{limit}"] == pytest.approx(expected, abs=1e-4)
        assert math.isnan(result[f"ARs@{limit}"]) and math.isnan(result[f"ARl@{limit}"])
    assert proposal_recall([prediction(1, []), prediction(2, [])], coco)["AR@100"] == 0


def test_only_the_best_proposals_up_to_the_limit_count():
    coco = coco_of({1: [(0, 0, 40, 40)]})
    boxes = np.tile([200.0, 200.0, 240.0, 240.0], (400, 1))
    boxes[150] = [0, 0, 40, 40]
    result = proposal_recall([prediction(1, boxes)], coco)
    assert [result[f"AR@{limit}"] for limit in LIMITS] == [0, 100, 100]


def test_matching_is_one_to_one_and_greedy():
    # Both objects prefer the first proposal; the better pair gets it.
    iou = np.array([[0.9, 0.8], [0.2, 0.7], [0.1, 0.6]])
    assert matched_overlaps(iou).tolist() == [0.9, 0.7]
    assert matched_overlaps(iou[:1]).tolist() == [0.9, 0.0]
    assert matched_overlaps(np.zeros((0, 3))).tolist() == [0, 0, 0]
    assert matched_overlaps(np.zeros((3, 0))).tolist() == []


def test_average_recall_counts_overlaps_at_the_threshold():
    assert average_recall(np.array([0.5], np.float32)) == pytest.approx(0.1)
    assert average_recall(np.array([1.0, 0.0])) == pytest.approx(0.5)
    assert math.isnan(average_recall(np.zeros(0)))


def test_no_annotations_or_no_predictions():
    result = proposal_recall([prediction(1, [[0, 0, 9, 9]])], coco_of({1: []}))
    assert all(math.isnan(value) for value in result.values())
    assert all(math.isnan(value) for value in proposal_recall([], coco_of({1: []})).values())


def test_table_has_a_row_per_limit():
    table = recall_table(proposal_recall(*reversed(random_case(2, 50, np.random.default_rng(1)))))
    lines = table.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["100", "300", "1000"]
    assert lines[0].split() == [
        "|",
        "proposals",
        "|",
        "AR",
        "|",
        "ARs",
        "|",
        "ARm",
        "|",
        "ARl",
        "|",
    ]


def test_is_quick_for_many_proposals():
    coco, predictions = random_case(40, 1000, np.random.default_rng(2))
    start = time.process_time()
    proposal_recall(predictions, coco)
    ours = time.process_time() - start
    start = time.process_time()
    for limit in (100, 1000):
        for area in ("all", "small", "medium", "large"):
            _evaluate_box_proposals(predictions, coco, area=area, limit=limit)
    assert ours < time.process_time() - start  # with three limits against two
