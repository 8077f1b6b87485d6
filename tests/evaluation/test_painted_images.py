"""Names and content of painted images."""

import cv2
import numpy as np
import pytest
import torch
from detectron2.data import MetadataCatalog
from detectron2.structures import Boxes, Instances

from anchor_heads.evaluation import PaintedImagesEvaluator


@pytest.fixture
def metadata():
    return MetadataCatalog.get("painted_images_test")


def detections():
    return Instances(
        (40, 60),
        pred_boxes=Boxes(torch.tensor([[10.0, 10.0, 30.0, 30.0]])),
        scores=torch.tensor([0.9]),
        pred_classes=torch.tensor([0]),
    )


def paint(folder, file_names, outputs=None):
    """Evaluates grey images of these names and returns the painted files, by relative path."""
    inputs = []
    for i, name in enumerate(file_names):
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", np.full((40, 60, 3), 128, np.uint8))[1])
        inputs.append({"file_name": str(path), "image_id": i})
    evaluator = PaintedImagesEvaluator("painted_images_test", str(folder / "painted"))
    evaluator.reset()
    outputs = outputs or [{"instances": detections()} for _ in inputs]
    for single_input, output in zip(inputs, outputs, strict=True):
        evaluator.process([single_input], [output])
    assert evaluator.evaluate() is None
    files = [path for path in (folder / "painted").rglob("*") if path.is_file()]
    return {
        path.relative_to(folder / "painted").as_posix(): cv2.imread(str(path)) for path in files
    }


def test_files_lie_as_in_the_image_folder(tmp_path, metadata):
    metadata.image_root = str(tmp_path / "images")
    painted = paint(tmp_path, ["1.png", "a/1.jpg", "b/1.JPG", "b/2.unknown"])
    assert sorted(painted) == ["1.png", "a/1.jpg", "b/1.JPG", "b/2.unknown.png"]
    assert all(np.ptp(image) > 100 for image in painted.values())


@pytest.mark.parametrize("image_root", [None, "elsewhere"])
def test_image_id_tells_files_apart_where_the_folder_is_unknown(tmp_path, metadata, image_root):
    if image_root:
        metadata.image_root = str(tmp_path / image_root)
    assert sorted(paint(tmp_path, ["a/1.png", "b/1.png"])) == ["0_1.png", "1_1.png"]


@pytest.mark.usefixtures("metadata")
def test_proposals_are_painted(tmp_path):
    found = Instances(
        (40, 60),
        proposal_boxes=Boxes(torch.tensor([[10.0, 10.0, 30.0, 30.0]])),
        objectness_logits=torch.zeros(1),
    )
    painted = paint(tmp_path, ["1.png", "2.png"], [{"proposals": found}, {"proposals": found[:0]}])
    assert np.ptp(painted["0_1.png"]) > 100
    assert (painted["1_2.png"] == 128).all()
