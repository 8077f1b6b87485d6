"""NMS recall, against the published implementation and by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.layers import batched_nms
from detectron2.structures import Boxes, BoxMode, Instances

from anchor_heads.evaluation import NMSRecallEvaluator
from anchor_heads.evaluation.nms_recall import IOU_THRESHOLDS, best_overlaps, nms_recall

REFERENCE = np.load(Path(__file__).parent / "data" / "nms_recall.npz")
NUM_REFERENCE_IMAGES = 3


def reference_boxes(key):
    """The published boxes include their last pixel."""
    return torch.from_numpy(REFERENCE[key]) + torch.tensor([0.0, 0.0, 1.0, 1.0])


def reference_candidates(image):
    return Instances(
        (128, 160),
        pred_boxes=Boxes(reference_boxes(f"img{image}/boxes")),
        scores=torch.from_numpy(REFERENCE[f"img{image}/scores"]),
        pred_classes=torch.from_numpy(REFERENCE[f"img{image}/labels"]).long() - 1,
    )


def register(records, name="nms_recall_test"):
    DatasetCatalog.register(name, lambda: records)
    return name


def record(image_id, boxes, crowd=()):
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0, "iscrowd": i in crowd}
        for i, box in enumerate(boxes)
    ]
    return {"image_id": image_id, "file_name": "", "annotations": annotations}


def candidates(boxes, scores, classes=None):
    return Instances(
        (100, 100),
        pred_boxes=Boxes(torch.tensor(boxes).float().reshape(-1, 4)),
        scores=torch.tensor(scores).float(),
        pred_classes=torch.zeros(len(boxes), dtype=torch.long)
        if classes is None
        else torch.tensor(classes),
    )


@pytest.mark.parametrize("image", range(NUM_REFERENCE_IMAGES))
def test_overlaps_equal_the_published_ones(image):
    found = reference_candidates(image)
    keep = batched_nms(found.pred_boxes.tensor, found.scores, found.pred_classes, 0.5)
    assert len(keep) == REFERENCE[f"img{image}/num_after_nms"]

    overlaps = best_overlaps(Boxes(reference_boxes(f"img{image}/gt_boxes")), found, [0.5])
    np.testing.assert_allclose(
        overlaps[:, 0], REFERENCE[f"img{image}/best_iou_without"], rtol=1e-4, atol=1e-5
    )
    np.testing.assert_allclose(
        overlaps[:, 1], REFERENCE[f"img{image}/best_iou_with"], rtol=1e-4, atol=1e-5
    )


def test_evaluator_equals_the_published_result():
    images = range(NUM_REFERENCE_IMAGES)
    name = register([record(i, reference_boxes(f"img{i}/gt_boxes").tolist()) for i in images])
    evaluator = NMSRecallEvaluator(name, nms_thresholds=[0.5])
    evaluator.process(
        [{"image_id": i} for i in images], [{"instances": reference_candidates(i)} for i in images]
    )
    result = evaluator.evaluate()["nms_recall"]
    assert list(result) == ["NR@0.5", *(f"NR{iou}@0.5" for iou in (50, 60, 70, 80, 90))]
    assert result["NR@0.5"] == pytest.approx(100 * REFERENCE["nr_mean"])
    per_threshold = [result[f"NR{iou}@0.5"] for iou in (50, 60, 70, 80, 90)]
    np.testing.assert_allclose(per_threshold, 100 * REFERENCE["nr_per_threshold"][::2])


def test_recall_is_strict_and_zero_where_nothing_was_found():
    before = np.array([0.75, 0.625, 0.5, 0.0], np.float32)
    after = np.array([0.75, 0.25, 0.0, 0.0], np.float32)
    recall = nms_recall(before, after, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(recall, [1 / 3, 1 / 2, 0])
    assert IOU_THRESHOLDS.tolist() == pytest.approx(
        [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9]
    )


def test_nms_loses_the_well_located_box_of_lower_score():
    """IoU with the object: 0.5 for the best scored box, 1 for the second; 0.5 between the two."""
    name = register([record(1, [[0, 0, 40, 40]])])
    evaluator = NMSRecallEvaluator(name, nms_thresholds=[0.3, 0.7])
    found = candidates([[0, 0, 40, 20], [0, 0, 40, 40]], [0.9, 0.8])
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    result = evaluator.evaluate()["nms_recall"]
    assert result["NR@0.3"] == 0
    assert result["NR@0.7"] == 100


def test_class_matters_for_nms_but_not_for_the_object():
    name = register([record(1, [[0, 0, 40, 40]])])
    evaluator = NMSRecallEvaluator(name, nms_thresholds=[0.3])
    found = candidates([[0, 0, 40, 20], [0, 0, 40, 40]], [0.9, 0.8], classes=[0, 2])
    evaluator.process([{"image_id": 1}], [{"instances": found}])
    assert evaluator.evaluate()["nms_recall"]["NR@0.3"] == 100


def test_crowds_and_images_without_objects_or_candidates():
    name = register(
        [
            record(1, []),
            record(2, [[0, 0, 9, 9], [50, 50, 90, 90]], crowd=[0]),
            record(3, [[0, 0, 9, 9]]),
        ]
    )
    evaluator = NMSRecallEvaluator(name, nms_thresholds=[0.5])
    evaluator.reset()
    found = candidates([[0, 0, 9, 9], [50, 50, 90, 90]], [0.9, 0.5])
    evaluator.process(
        [{"image_id": i} for i in (1, 2, 3)],
        [{"instances": found}, {"instances": found}, {"instances": candidates([], [])}],
    )
    # Of two objects that are no crowd, one is found before NMS, and it is found after it.
    assert evaluator.evaluate()["nms_recall"]["NR@0.5"] == 100


def test_no_object_at_all_gives_no_result():
    evaluator = NMSRecallEvaluator(register([record(1, [])]))
    assert evaluator.evaluate() == {}
    evaluator.process([{"image_id": 1}], [{"instances": candidates([], [])}])
    assert evaluator.evaluate() == {}
