import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO

from anchor_heads.data.coco_json import clean_coco_dict
from anchor_heads.prediction.coco_results import CocoResults
from anchor_heads.prediction.frame import PredictedFrame
from anchor_heads.prediction.sources import ImageFile

CATEGORIES = [{"id": 3, "name": "red"}, {"id": 7, "name": "white"}]
IMAGE = ImageFile("folder/a.png", "a.png")


def frame_of(instances, source=IMAGE, index=None):
    image = np.zeros((*instances.image_size, 3), np.uint8)
    return PredictedFrame(source, index, image, instances, Metadata())


def written(path, *frames, **kwargs):
    with CocoResults(str(path), CATEGORIES, **kwargs) as results:
        for frame in frames:
            results.write(frame)
    return json.loads(path.read_text())


def test_without_image_ids_it_is_a_data_set(tmp_path, detections):
    path = tmp_path / "new" / "predictions.json"
    nothing = detections[:0]
    content = written(path, frame_of(nothing), frame_of(detections, index=5))
    assert content["categories"] == CATEGORIES
    first = {"id": 1, "file_name": "folder/a.png", "width": 64, "height": 48}
    assert content["images"] == [first, {**first, "id": 2, "frame": 5}]
    best, other = content["annotations"]
    assert best["bbox"] == [10, 20, 20, 25] and best["area"] == 500
    assert best["score"] == pytest.approx(0.9) and best["iscrowd"] == 0
    assert (best["id"], best["image_id"], best["category_id"]) == (1, 2, 7)
    assert (other["id"], other["image_id"], other["category_id"]) == (2, 2, 3)
    assert clean_coco_dict(str(path)) == content  # nothing had to be mended
    assert len(COCO(str(path)).getAnnIds(imgIds=[2])) == 2


def test_with_image_ids_it_is_a_list_of_results(tmp_path, detections):
    content = written(tmp_path / "results.json", frame_of(detections), image_ids={IMAGE: 42})
    assert [sorted(x) for x in content] == [["bbox", "category_id", "image_id", "score"]] * 2
    assert {x["image_id"] for x in content} == {42}
    ground_truth = COCO()
    image = {"id": 42, "width": 64, "height": 48}
    ground_truth.dataset = {"info": {}, "images": [image], "categories": CATEGORIES}
    ground_truth.createIndex()
    assert len(ground_truth.loadRes(str(tmp_path / "results.json")).getAnnIds()) == 2


def test_detections_below_the_threshold_are_left_out(tmp_path, detections):
    content = written(tmp_path / "a.json", frame_of(detections), score_threshold=0.5)
    assert [x["category_id"] for x in content["annotations"]] == [7]


def test_no_prediction_at_all(tmp_path):
    content = written(tmp_path / "a.json")
    assert content["images"] == content["annotations"] == []
    assert written(tmp_path / "b.json", image_ids={}) == []


def test_masks_and_keypoints(tmp_path, detections):
    detections.pred_masks = torch.zeros(2, 48, 64, dtype=torch.bool)
    detections.pred_masks[0, 20:30, 10:15] = True
    detections.pred_keypoints = torch.tensor([[[12.5, 22.5, 0.8]], [[1.5, 2.5, 0.1]]])
    content = written(tmp_path / "a.json", frame_of(detections))
    best, other = content["annotations"]
    mask = mask_util.decode(best["segmentation"])
    assert mask.shape == (48, 64) and (mask == detections.pred_masks[0].numpy()).all()
    assert best["area"] == 50 and other["area"] == 0
    # COCO counts pixels, Detectron2 measures from the corner of the first; ours stay as they are.
    assert best["keypoints"] == pytest.approx([12, 22, 0.8])
    assert detections.pred_keypoints[0, 0].tolist() == pytest.approx([12.5, 22.5, 0.8])


def test_proposals_have_the_first_category_and_their_logit(tmp_path):
    proposals = Instances(
        (48, 64),
        proposal_boxes=Boxes(torch.tensor([[1.0, 2.0, 4.0, 6.0]])),
        objectness_logits=torch.tensor([-2.5]),
    )
    (result,) = written(
        tmp_path / "a.json", frame_of(proposals), image_ids={IMAGE: 1}, score_threshold=0.5
    )
    assert result == {"image_id": 1, "category_id": 3, "bbox": [1, 2, 3, 4], "score": -2.5}


def test_what_was_predicted_before_an_error_is_kept(tmp_path, detections):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(MemoryError), CocoResults(str(path), CATEGORIES) as results:
        results.write(frame_of(detections))
        assert path.read_text() == "old"
        raise MemoryError
    assert len(json.loads(path.read_text())["annotations"]) == 2
    assert [x.name for x in tmp_path.iterdir()] == ["a.json"]
