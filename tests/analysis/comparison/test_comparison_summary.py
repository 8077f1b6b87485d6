import json

import pytest
import torch
from detectron2.structures import Boxes, Instances

from anchor_heads.analysis.comparison.measure import RANKS, AnnotatedImage
from anchor_heads.analysis.comparison.summary import describe_objects, summarize


def image(image_id, *boxes):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    objects = Instances((200, 200), gt_boxes=Boxes(boxes))
    return AnnotatedImage({"file_name": f"{image_id}.png", "image_id": image_id}, objects)


IMAGES = [
    image(1, [0, 0, 32, 31.5], [0, 0, 32, 32]),  # small, and the least medium
    image(2),
    image(3, [0, 0, 96, 96]),  # the least large
]


def result(image_id, seconds, kept, areas=(), best=(), matched=(), before=(), after=()):
    objects = {"area": areas, "best_iou": best, "before_nms": before, "after_nms": after}
    objects |= {f"anchors@{k}": [x * (k > 10) for x in matched] for k in RANKS}
    objects = {name: list(map(float, values)) for name, values in objects.items()}
    levels = {"p3": [2 * kept, 40, kept], "p4": [20, 10, 10]}
    return {"image_id": image_id, "seconds": seconds, "levels": levels, "objects": objects}


RESULTS = [
    result(3, 0.3, 20, [9216], [0.7], [0.95], [0.8], [0.74]),
    result(2, 0.1, 0),
    result(1, 0.2, 10, [1008, 1024], [0.5, 0.2], [0.5, 0.49], [0.6, 0.3], [0.6, 0.0]),
]


def test_objects_are_counted_by_size():
    assert describe_objects(IMAGES) == {
        "images": 3,
        "images_without_objects": 1,
        "objects": {"all": 3, "small": 1, "medium": 1, "large": 1},
    }


def test_numbers_by_hand():
    summary = summarize(RESULTS)
    assert summary["seconds_per_image"] == pytest.approx([0.15, 0.2, 0.25])
    # 40, 0 and 20 anchors of p3; half, none and a quarter of its locations.
    assert summary["anchors_per_image"] == pytest.approx({"p3": 20, "p4": 20, "all": 40})
    assert summary["locations_kept"] == pytest.approx({"p3": 25, "p4": 100, "all": 40})

    best = summary["best_iou"]
    assert [best[x]["objects"] for x in ("all", "small", "medium", "large")] == [3, 1, 1, 1]
    assert best["all"]["mean"] == pytest.approx(1.4 / 3)
    assert best["all"]["from_0.5"] == pytest.approx(200 / 3)
    assert best["all"]["from_0.7"] == pytest.approx(100 / 3)
    assert best["medium"]["mean"] == pytest.approx(0.2) and best["medium"]["from_0.5"] == 0
    histogram = best["all"]["histogram"]
    assert sum(histogram) == 3 and len(histogram) == 20 and histogram[10] == 1

    # IoU 0.95 is found at all ten thresholds, 0.5 at the first, 0.49 at none.
    recall = summary["recall"]
    assert list(recall) == ["anchors"] and list(recall["anchors"]) == [str(k) for k in RANKS]
    assert recall["anchors"]["10"] == {"AR": 0, "R50": 0}
    assert recall["anchors"]["30"] == pytest.approx({"AR": 100 * 11 / 30, "R50": 200 / 3})

    # Found before NMS: at 0.5 and 0.55 two, to 0.75 one; after: above 0.7 none.
    by_iou = list(summary["nms_recall"]["by_iou"].values())
    assert by_iou[:2] == [100, 100] and by_iou[3:6] == [100, 100, 0]
    assert summary["nms_recall"]["NR"] == pytest.approx(sum(by_iou) / 9)
    json.dumps(summary, allow_nan=False)


def test_sizes_without_objects_have_no_numbers():
    best = summarize([RESULTS[0]])["best_iou"]
    assert best["small"]["objects"] == 0 and best["small"]["mean"] is None
    assert best["small"]["from_0.5"] is None
