import json
import sys

import cv2
import numpy as np
import pytest
import torch
from tiny_run import write_model

from anchor_heads.cli import main as cli
from anchor_heads.export import ExportedPredictor


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a config, its weights, data, and what predict makes of them."""
    folder = tmp_path_factory.mktemp("model")
    overrides = ["MODEL.RETINANET.SCORE_THRESH_TEST", 0.0, "MODEL.PIXEL_STD", [500.0] * 3]
    write_model(folder, "GuidedAnchorRetinaNet", overrides)
    image = np.random.default_rng(0).integers(0, 256, (96, 70, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "noise.png"), image)
    return folder


def export(folder, *options):
    return cli.main(
        ["export", str(folder / "config.yaml"), "--weights", str(folder / "model.pth"), *options]
    )


def test_predict_runs_the_exported_model_as_the_checkpoint(model, tmp_path):
    """TorchScript, whose export is the fastest; other formats are compared in tests/export."""
    path = str(tmp_path / "new" / "model.pt")
    assert export(model, "--format", "torchscript", "--output", path) == 0
    results = []
    for i, arguments in enumerate(
        (["--weights", path], [str(model / "config.yaml"), "--weights", str(model / "model.pth")])
    ):
        out = tmp_path / str(i)
        paths = ["--json", f"{out}.json", "--output", str(out), str(model / "noise.png")]
        assert cli.main(["predict", *arguments, *paths]) == 0
        results.append(json.loads((tmp_path / f"{i}.json").read_text()))
        assert (out / "noise.png").is_file()
    ours, expected = results
    assert ours["categories"] == expected["categories"] == [
        {"id": 1, "name": "square"}, {"id": 2, "name": "bar"}
    ]  # fmt: skip
    assert len(ours["annotations"]) == len(expected["annotations"]) > 0
    # Detections whose scores are equal up to rounding may change places.
    pairs = (
        sorted(x["annotations"], key=lambda a: (a["category_id"], *np.round(a["bbox"], 1)))
        for x in results
    )
    for a, b in zip(*pairs, strict=True):
        np.testing.assert_allclose(a["bbox"], b["bbox"], atol=0.01)
        assert a["category_id"] == b["category_id"]
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)


def test_options_and_class_names(model, tmp_path, capsys):
    path = str(tmp_path / "model.pt")
    options = ["--size", "48", "66", "--image-type", "float32", "--precision", "bfloat16"]
    names = ["--class-names", "a, b"]
    assert export(model, "--format", "torchscript", "--output", path, *options, *names) == 0
    assert f"Wrote {path}: torchscript" in capsys.readouterr().out
    metadata = ExportedPredictor(path).metadata
    assert metadata["size"] == [48, 66] and metadata["image_type"] == "float32"
    assert metadata["precision"] == "bfloat16"
    assert [x["name"] for x in metadata["categories"]] == ["a", "b"]


def test_a_calibration_that_fails_leaves_no_file(model, tmp_path, capsys, monkeypatch):
    """Neither one in float32, nor instead of an earlier one."""
    monkeypatch.setattr(
        "anchor_heads.cli.export.export_model", lambda _, path, *__: open(path, "x")
    )
    monkeypatch.setattr("anchor_heads.export.int8.quantize", lambda _, images: list(images))
    broken, path = tmp_path / "broken.png", tmp_path / "m.onnx"
    broken.write_text("no image")
    options = ["--format", "onnx", "--output", str(path), "--precision", "int8", "--force"]
    options += ["--calibration-images", str(broken)]
    assert export(model, *options) == 2
    assert f"Cannot read the image {broken}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [broken]
    path.write_text("earlier")
    assert export(model, *options) == 2 and path.read_text() == "earlier"


def test_int8_without_onnxruntime_is_said_before_the_export(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    path, images = tmp_path / "new" / "m.onnx", ["--calibration-images", str(model / "noise.png")]
    options = ["--format", "onnx", "--output", str(path), "--precision", "int8", *images]
    assert export(model, *options) == 2
    assert "onnxruntime is not installed" in capsys.readouterr().err and not path.parent.exists()


def test_weights_of_another_model(model, tmp_path, capsys):
    torch.save({"model": {"x": torch.ones(1)}}, tmp_path / "other.pth")
    arguments = ["--format", "onnx", "--output", str(tmp_path / "m.onnx")]
    config, weights = str(model / "config.yaml"), str(tmp_path / "other.pth")
    assert cli.main(["export", config, "--weights", weights, *arguments]) == 2
    assert "other.pth" in capsys.readouterr().err.strip().splitlines()[-1]


def test_exported_models_are_for_predict_and_need_no_config(model, tmp_path, capsys):
    path, config = str(tmp_path / "model.pt"), str(model / "config.yaml")
    assert export(model, "--format", "torchscript", "--output", path) == 0
    picture = str(model / "noise.png")
    for arguments, message in (
        (["predict", "--config-file", config, "--weights", path, picture], "name no config"),
        (["visualize", config, "--weights", path, picture], "only predict --weights runs it"),
    ):
        assert cli.main([*arguments, "--output", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err.strip().splitlines()[-1]
