"""What build_evaluator's evaluators compute and write, on small data sets in COCO format."""

import json
import math
import os
import pickle

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, Instances

from anchor_heads import get_cfg
from anchor_heads.data.coco_format import register_coco_format
from anchor_heads.evaluation import build_evaluator

IMAGE_SIZE = (100, 120)  # height, width


@pytest.fixture
def folder(tmp_path):
    """An image folder with two images of the same name, in two sub-folders."""
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        image = np.full((*IMAGE_SIZE, 3), 128, np.uint8)
        cv2.imwrite(str(tmp_path / "images" / name / "1.png"), image)
    return tmp_path


def write_json(folder, annotations, categories=(7, 3)):
    height, width = IMAGE_SIZE
    content = {
        "images": [
            {"id": i, "file_name": f"{name}/1.png", "height": height, "width": width}
            for i, name in enumerate("ab", start=1)
        ],
        "categories": [{"id": i, "name": f"class_{i}"} for i in categories],
    }
    if annotations is not None:
        content["annotations"] = [
            {"image_id": image, "category_id": category, "bbox": box}
            for image, category, box in annotations
        ]
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return str(path)


def config(folder, json_file, *test_sets):
    cfg = get_cfg()
    cfg.OUTPUT_DIR = str(folder / "output")
    cfg.DATASETS.TEST = test_sets
    cfg.DATASETS.COCO_FORMAT = [[name, json_file, str(folder / "images")] for name in test_sets]
    register_coco_format(cfg)
    return cfg


def detections(boxes, classes, scores=None):
    return Instances(
        IMAGE_SIZE,
        pred_boxes=Boxes(torch.tensor(boxes).float().reshape(-1, 4)),
        scores=torch.ones(len(boxes)) if scores is None else torch.tensor(scores),
        pred_classes=torch.tensor(classes, dtype=torch.long),
    )


def evaluate(evaluator, dataset_name, outputs):
    """``outputs`` by image id, as a model would give them for the data set's images."""
    evaluator.reset()
    for record in DatasetCatalog.get(dataset_name):
        evaluator.process([record], [outputs[record["image_id"]]])
    return evaluator.evaluate()


# Medium and small; without id, iscrowd and area; the last has no height.
OBJECTS = [(1, 7, [10, 10, 40, 40]), (2, 3, [60, 60, 20, 20]), (2, 3, [5, 5, 10, 0])]


def test_ap_is_on_the_cleaned_annotations(folder):
    cfg = config(folder, write_json(folder, OBJECTS), "own")
    outputs = {
        1: {"instances": detections([[10, 10, 50, 50]], [1])},  # category 7
        2: {"instances": detections([[60, 60, 80, 80]], [0])},  # category 3
    }
    result = evaluate(build_evaluator(cfg, "own"), "own", outputs)["bbox"]
    assert result["AP"] == pytest.approx(100)
    assert result["AP-class_3"] == result["AP-class_7"] == pytest.approx(100)
    assert result["APs"] == result["APm"] == pytest.approx(100) and math.isnan(result["APl"])
    written = json.loads((folder / "output/inference/coco_instances_results.json").read_text())
    assert [(x["image_id"], x["category_id"]) for x in written] == [(1, 7), (2, 3)]
    assert written[0]["bbox"] == [10, 10, 40, 40]


def test_no_detection_at_all_is_ap_0(folder):
    cfg = config(folder, write_json(folder, OBJECTS), "own")
    nothing = {"instances": detections([], [])}
    result = evaluate(build_evaluator(cfg, "own"), "own", {1: nothing, 2: nothing})["bbox"]
    assert result["AP"] == result["AP50"] == result["APs"] == result["AP-class_3"] == 0
    assert math.isnan(result["APl"])  # no such object


def test_images_without_any_object(folder):
    cfg = config(folder, write_json(folder, []), "own")
    outputs = dict.fromkeys((1, 2), {"instances": detections([[0, 0, 9, 9]], [0])})
    result = evaluate(build_evaluator(cfg, "own"), "own", outputs)["bbox"]
    assert all(math.isnan(value) for value in result.values())


@pytest.mark.parametrize("own", [True, False], ids=["COCO_FORMAT", "registered by Detectron2"])
def test_without_public_annotations_results_are_written(folder, own):
    json_file = write_json(folder, annotations=None)
    cfg = config(folder, json_file, *(["test_set"] if own else []))
    if not own:
        register_coco_instances("test_set", {}, json_file, str(folder / "images"))
        DatasetCatalog.get("test_set")  # fills the metadata, as building a loader does
    outputs = dict.fromkeys((1, 2), {"instances": detections([[0, 0, 9, 9]], [0], [0.5])})
    assert evaluate(build_evaluator(cfg, "test_set"), "test_set", outputs) == {}
    written = json.loads((folder / "output/inference/coco_instances_results.json").read_text())
    expected = {"category_id": 3, "bbox": [0, 0, 9, 9], "score": 0.5}
    assert written == [{"image_id": i, **expected} for i in (1, 2)]


def test_proposals_have_recall_and_are_written(folder):
    cfg = config(folder, write_json(folder, OBJECTS), "own")
    cfg.MODEL.META_ARCHITECTURE = "ProposalNetwork"
    boxes = {1: [[10.0, 10.0, 50.0, 50.0]], 2: []}
    outputs = {
        i: {
            "proposals": Instances(
                IMAGE_SIZE,
                proposal_boxes=Boxes(torch.tensor(x).reshape(-1, 4)),
                objectness_logits=torch.zeros(len(x)),
            )
        }
        for i, x in boxes.items()
    }
    result = evaluate(build_evaluator(cfg, "own"), "own", outputs)["box_proposals"]
    assert [result[f"AR@{limit}"] for limit in (100, 300, 1000)] == [50, 50, 50]
    assert (result["ARs@100"], result["ARm@100"]) == (0, 100)

    with open(folder / "output/inference/box_proposals.pkl", "rb") as f:
        written = pickle.load(f)
    assert written["ids"] == [1, 2] and written["bbox_mode"] == 0
    assert [x.tolist() for x in written["boxes"]] == [boxes[1], boxes[2]]
    assert [x.tolist() for x in written["objectness_logits"]] == [[0], []]


def test_each_of_several_test_sets_has_its_own_folder(folder):
    cfg = config(folder, write_json(folder, OBJECTS), "first", "second")
    cfg.TEST.SHOW_DIR = str(folder / "show")
    outputs = dict.fromkeys((1, 2), {"instances": detections([[0, 0, 9, 9]], [0])})
    for name in cfg.DATASETS.TEST:
        evaluate(build_evaluator(cfg, name), name, outputs)
        assert (folder / "output/inference" / name / "coco_instances_results.json").exists()
        assert (folder / "show" / name / "a" / "1.png").exists()


def test_show_dir_has_every_image_with_its_detections(folder):
    cfg = config(folder, write_json(folder, OBJECTS), "own")
    cfg.TEST.SHOW_DIR = str(folder / "show")
    outputs = {
        1: {"instances": detections([[10, 10, 50, 50]], [1], [0.9])},
        2: {"instances": detections([[10, 10, 50, 50]], [1], [0.1])},
    }
    result = evaluate(build_evaluator(cfg, "own"), "own", outputs)
    assert list(result) == ["bbox"]
    painted, plain = (cv2.imread(str(folder / "show" / name / "1.png")) for name in "ab")
    assert np.ptp(painted) > 100
    assert (plain == 128).all()  # its only detection is too weak to be painted


def test_data_sets_with_rules_of_their_own_are_refused(folder):
    cfg = config(folder, write_json(folder, OBJECTS), "own")
    MetadataCatalog.pop("own")
    MetadataCatalog.get("own").evaluator_type = "lvis"
    with pytest.raises(ValueError, match="own is to be evaluated by the rules of 'lvis'"):
        build_evaluator(cfg, "own")


@pytest.mark.parametrize("limit, ap", [(100, 100 * 67 / 101), (150, 100), (500, 100), (-1, 100)])
def test_as_many_detections_count_as_the_model_may_make(folder, limit, ap):
    """100 of 150 objects found are the recall points 0 to 0.66 of the 101 up to 1."""
    boxes = [[4 * i, 4 * j, 3, 3] for i in range(25) for j in range(10)][: max(limit, 150)]
    cfg = config(folder, write_json(folder, [(1, 7, box) for box in boxes]), "own")
    cfg.TEST.DETECTIONS_PER_IMAGE = limit
    corners = [[x, y, x + 3, y + 3] for x, y, _, _ in boxes]
    found = detections(corners, [1] * len(boxes), np.linspace(1, 0.5, len(boxes)).tolist())
    outputs = {1: {"instances": found}, 2: {"instances": detections([], [])}}
    result = evaluate(build_evaluator(cfg, "own"), "own", outputs)["bbox"]
    assert result["AP"] == pytest.approx(ap, abs=1e-3)
    assert result["AP-class_7"] == pytest.approx(ap, abs=1e-3)


def write_fields(folder, *fields):
    json_file = write_json(folder, OBJECTS[: len(fields)])
    content = json.loads((folder / "annotations.json").read_text())
    for annotation, added in zip(content["annotations"], fields, strict=True):
        annotation.update(added)
    (folder / "annotations.json").write_text(json.dumps(content))
    return json_file


def test_masks_that_cannot_be_evaluated_are_refused_at_once(folder):
    mask = {"segmentation": [[10, 10, 50, 10, 50, 50]]}
    cfg = config(folder, write_fields(folder, mask, {"segmentation": []}), "own")
    build_evaluator(cfg, "own")
    cfg.MODEL.MASK_ON = True
    message = "'own': 1 of 2 annotations have no 'segmentation', first: annotation 2 of image 2"
    with pytest.raises(ValueError, match=message):
        build_evaluator(cfg, "own")
    write_json(folder, annotations=None)
    build_evaluator(cfg, "own")


def test_keypoints_that_cannot_be_evaluated_are_refused_at_once(folder):
    points = {"keypoints": [12, 12, 2, 20, 20, 1]}
    cfg = config(folder, write_fields(folder, points, {}), "own")  # the second's are not labelled
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(ValueError, match=r"'own': objects have \[2\] keypoints, and the"):
        build_evaluator(cfg, "own")
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 2
    with pytest.raises(ValueError, match="2 keypoints, and there are 17 sigmas: write one"):
        build_evaluator(cfg, "own")
    cfg.TEST.KEYPOINT_OKS_SIGMAS = [0.05, 0.05]
    found = detections([[10, 10, 50, 50]], [1])
    found.pred_keypoints = torch.tensor([[[12.5, 12.5, 1], [20.5, 20.5, 1]]])
    outputs = {1: {"instances": found}, 2: {"instances": detections([], [])}}
    result = evaluate(build_evaluator(cfg, "own"), "own", outputs)
    assert result["keypoints"]["AP"] == pytest.approx(100)

    write_fields(folder, {}, {})
    os.utime(folder / "annotations.json", ns=(0, 0))
    with pytest.raises(ValueError, match="'own': 2 of 2 annotations have no 'keypoints'"):
        build_evaluator(cfg, "own")


def test_results_stay_in_the_output_folder(folder):
    cfg = config(folder, write_json(folder, OBJECTS))
    for name in ("../../../escaped", "/tmp/escaped", "a\\b", ".."):
        DatasetCatalog.register(name, list)
        with pytest.raises(ValueError, match="the name of a data set is part of file names"):
            build_evaluator(cfg, name)
        with pytest.raises(ValueError, match="the name of a data set is part of file names"):
            config(folder, "a.json", name)
