import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from tiny_run import write_model
from torch import nn

from anchor_heads.cli import inputs

# An untrained model is sure of nothing.
EVERYTHING = ("MODEL.RETINANET.SCORE_THRESH_TEST", 0.0)


@pytest.fixture
def model(tmp_path):
    """Folder with images 0.png to 11.png and a model; arguments that name the model."""
    config = write_model(tmp_path)
    return tmp_path, ["--config-file", config, "--weights", tmp_path / "model.pth"]


def test_pictures_and_a_data_set_of_images_and_a_video(model, command):
    folder, arguments = model
    writer = cv2.VideoWriter(str(folder / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 9, (64, 48))
    for _ in range(2):
        writer.write(np.zeros((48, 64, 3), np.uint8))
    writer.release()
    (folder / "broken.png").write_bytes((folder / "0.png").read_bytes()[:100])
    inputs = [folder / "1.png", folder / "broken.png", folder / "clip.avi"]
    output, predictions = folder / "out", folder / "predictions.json"
    options = ["--output", output, "--json", predictions, "--class-names", "a, b"]

    code, said, _ = command("predict", *arguments, *inputs, *options, *EVERYTHING)
    assert code == 1
    assert "Predicted 1 images and 2 frames of videos" in said
    assert f"1 of 3 inputs could not be read:\n  {inputs[1]}" in said
    assert sorted(path.name for path in output.iterdir()) == ["1.png", "clip.mp4"]
    content = json.loads(predictions.read_text())
    files = [Path(image["file_name"]).name for image in content["images"]]
    assert files == ["1.png", "clip.avi", "clip.avi"]
    assert {x["image_id"] for x in content["annotations"]} == {1, 2, 3}
    assert content["categories"] == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]

    before = predictions.read_text()
    code, _, said = command("predict", *arguments, *inputs, *options)
    existing = f"3 of 4 output files exist, the first being {output / '1.png'}"
    assert code == 2 and existing in said
    assert predictions.read_text() == before
    assert command("predict", *arguments, inputs[0], *options, "--force")[0] == 0
    assert json.loads(predictions.read_text())["annotations"] == []  # none has a score of 0.05
    assert len(json.loads(before)["annotations"]) > 0


def test_results_with_the_ids_of_an_annotation_file(model, command):
    folder, arguments = model
    annotations = json.loads((folder / "annotations.json").read_text())
    for image in annotations["images"]:
        image["id"] += 100
    listed = folder / "listed.json"
    listed.write_text(json.dumps({**annotations, "images": annotations["images"][3:5]}))
    options = ["--annotations", listed, "--json", folder / "results.json"]
    code, said, _ = command("predict", *arguments, folder, *options, *EVERYTHING)
    assert code == 0 and f"10 of 12 images are not in {listed}" in said
    results = json.loads((folder / "results.json").read_text())
    assert {x["image_id"] for x in results} == {103, 104}
    assert {x["category_id"] for x in results} <= {1, 2}

    options = ["--annotations", listed, "--json", listed, "--force"]
    code, _, said = command("predict", *arguments, folder, *options)
    assert code == 2 and f"{listed} is read and would be overwritten" in said


def test_results_equal_those_of_the_evaluation(model, command):
    folder, arguments = model
    options = ["--annotations", folder / "annotations.json", "--json", folder / "results.json"]
    assert command("predict", *arguments, folder, *options, *EVERYTHING)[0] == 0
    assert command("eval", *arguments, "OUTPUT_DIR", folder / "eval", *EVERYTHING)[0] == 0
    files = [folder / "results.json", folder / "eval/inference/coco_instances_results.json"]
    predicted, evaluated = (json.loads(file.read_text()) for file in files)
    assert sorted(predicted, key=lambda x: x["image_id"]) == evaluated and len(evaluated) > 100


def test_ctrl_c_keeps_what_was_predicted(model, command, monkeypatch):
    folder, arguments = model
    read = inputs.read_record_image

    def read_or_interrupt(record):
        if record["file_name"] == str(folder / "1.png"):
            raise KeyboardInterrupt
        return read(record)

    monkeypatch.setattr(inputs, "read_record_image", read_or_interrupt)
    options = [folder, "--json", folder / "a.json"]
    code, said, _ = command("predict", *arguments, *options)
    assert code == 130 and "Predicted 1 images" in said and "rest of 12 inputs" in said
    assert len(json.loads((folder / "a.json").read_text())["images"]) == 1


def test_proposals(tmp_path, command):
    config = write_model(tmp_path, "ProposalNetwork")
    arguments = ["--config-file", config, "--weights", tmp_path / "model.pth"]
    options = ["--json", tmp_path / "proposals.json", "--output", tmp_path / "out"]
    overrides = ["MODEL.RPN.POST_NMS_TOPK_TEST", 5]
    assert command("predict", *arguments, tmp_path / "[01].png", *options, *overrides)[0] == 0
    content = json.loads((tmp_path / "proposals.json").read_text())
    assert content["categories"] == [{"id": 1, "name": "object"}]
    assert [x["image_id"] for x in content["annotations"]] == [1] * 5 + [2] * 5
    assert cv2.imread(str(tmp_path / "out/1.png")).shape == (426, 320, 3)


class OwnDetector(nn.Module):
    """Finds one object of its second class in each image."""

    def __init__(self, cfg):
        super().__init__()
        self.num_classes, self.score = 2, nn.Parameter(torch.ones(1))

    def forward(self, inputs):
        boxes, classes = Boxes(torch.tensor([[0.0, 0, 9, 9]])), torch.tensor([1])
        found = Instances(
            (48, 64), pred_boxes=boxes, scores=self.score.detach(), pred_classes=classes
        )
        return [{"instances": found} for _ in inputs]


def test_an_architecture_of_ones_own_keeps_its_classes(model, command, monkeypatch):
    monkeypatch.setitem(META_ARCH_REGISTRY._obj_map, "OwnDetector", OwnDetector)
    folder, arguments = model
    torch.save({"model": OwnDetector(None).state_dict()}, folder / "model.pth")
    options = ["--annotations", folder / "annotations.json", "--json", folder / "results.json"]
    overrides = ["MODEL.META_ARCHITECTURE", "OwnDetector"]
    assert command("predict", *arguments, folder / "0.png", *options, *overrides)[0] == 0
    assert json.loads((folder / "results.json").read_text())[0]["category_id"] == 2


def test_a_camera_that_is_not_there(model, command):
    folder, arguments = model
    code, said, _ = command("predict", *arguments, "--camera", 99, "--json", folder / "a.json")
    assert code == 1 and "1 of 1 inputs could not be read:\n  camera 99" in said


def test_what_to_read_and_to_make_must_be_said(model, command):
    folder, arguments = model
    code, _, said = command("predict", *arguments, "--output", folder / "out", *EVERYTHING)
    assert code == 2 and "name at least one INPUT" in said
    code, _, said = command("predict", *arguments, folder / "0.png")
    assert code == 2 and "--output FOLDER, --json FILE or --show" in said


def test_what_is_read_is_never_replaced(tmp_path, command):
    config = write_model(tmp_path)
    image, weights = tmp_path / "0.png", tmp_path / "model.pth"
    before = {path: path.read_bytes() for path in (image, weights)}
    options = ["--config-file", config, "--weights", weights, image, "--force", "--json"]
    for target in (image, weights):
        code, _, said = command("predict", *options, target)
        assert code == 2 and f"{target} is read and would be overwritten" in said
    (tmp_path / "folder").mkdir()
    code, _, said = command("predict", *options, tmp_path / "folder")
    assert code == 2 and "folder is a folder: name a file" in said
    assert {path: path.read_bytes() for path in before} == before


def test_pictures_of_narrow_images_are_enlarged_up_to_a_long_side(model, command):
    folder, arguments = model
    for height, width in ((48, 64), (8, 200), (8, 2000)):
        image = np.zeros((height, width, 3), np.uint8)
        cv2.imwrite(str(folder / f"{height}x{width}.png"), image)
    images, output = folder / "*x*.png", folder / "out"
    sizes_at_test = ["INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 160]
    code, said, _ = command("predict", *arguments, images, "--output", output, *sizes_at_test)
    assert code == 0
    assert "1 of 3 images are enlarged for the model" in said and "the smallest of 48\n" in said
    assert "2 of 3 images are enlarged in their pictures" in said and "smallest of 8\n" in said
    sizes = {path.stem: cv2.imread(str(path)).shape[:2] for path in output.iterdir()}
    assert sizes == {"48x64": (320, 426), "8x200": (53, 1333), "8x2000": (8, 2000)}


def test_an_image_that_cannot_be_resized_is_named_and_passed_over(tmp_path, command):
    config = write_model(tmp_path)
    cv2.imwrite(str(tmp_path / "strip.png"), np.zeros((1, 9000, 3), np.uint8))
    options = ["--config-file", config, "--weights", tmp_path / "model.pth"]
    images = [tmp_path / "strip.png", tmp_path / "0.png"]
    code, said, warned = command("predict", *options, *images, "--json", tmp_path / "found.json")
    assert code == 1 and f"Cannot use {tmp_path / 'strip.png'}, of 1x9000 pixels" in warned
    assert "Predicted 1 images" in said and "1 of 2 inputs could not be read" in said
