import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from detectron2.engine import DefaultPredictor
from exported_models import (
    CATEGORIES,
    FORMATS,
    assert_same_detections,
    config,
    detect,
    detector,
    images,
)
from tiny_run import REPOSITORY

from anchor_heads.export import ExportedPredictor, describe, export_model, is_exported

PICTURE = images()[161, 72].permute(1, 2, 0).numpy()
# A process in which nothing but the named packages, numpy and the standard library is there.
HIDE = "import sys; sys.modules.update(dict.fromkeys({hidden}))\n"


def fields(instances):
    return instances.pred_boxes.tensor, instances.scores, instances.pred_classes


@pytest.mark.parametrize("input_format", ["BGR", "RGB"])
def test_predicts_what_default_predictor_does(input_format, tmp_path):
    cfg = config("GuidedAnchorRetinaNet", tmp_path)
    cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 60, "INPUT.FORMAT", input_format])
    model = detector(cfg)
    torch.save({"model": model.state_dict()}, tmp_path / "model.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    expected = DefaultPredictor(cfg)(PICTURE)["instances"]
    path = str(tmp_path / "model.pt")
    export_model(model, path, "torchscript", describe(cfg, CATEGORIES))
    predictor = ExportedPredictor(path)
    instances = predictor(PICTURE)["instances"]
    assert instances.image_size == PICTURE.shape[:2] and len(instances) > 20
    assert_same_detections(fields(instances), fields(expected))
    assert predictor.config().INPUT.MIN_SIZE_TEST == 60
    assert predictor.config().INPUT.FORMAT == input_format


def test_exported_models_are_told_from_checkpoints(tmp_path):
    assert all(map(is_exported, ("a.onnx", "b/a.pt", "a.pt2")))
    assert not any(map(is_exported, ("a.pth", "a.pkl", "https://x.org/a.pt", "", None)))
    path = str(tmp_path / "a.pt")
    torch.save({"model": {"x": torch.ones(1)}}, path)
    assert not is_exported(path)
    torch.save({"x": torch.ones(1)}, path, _use_new_zipfile_serialization=False)
    assert not is_exported(path)
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.ones(1)), path)
    assert is_exported(path)


def test_files_that_cannot_be_run(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="there is no file .*m.onnx"):
        ExportedPredictor(str(tmp_path / "m.onnx"))
    for name, kind in (("m.onnx", "ONNX"), ("m.pt", "TorchScript"), ("m.pt2", "torch.export")):
        for content in (b"not a model", b""):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(ValueError, match=f"{name} is not an? {kind} model"):
                ExportedPredictor(str(tmp_path / name))
    assert capsys.readouterr().err == ""  # where torch prints its traceback
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.ones(1)), tmp_path / "m.pt")
    with pytest.raises(ValueError, match="m.pt was not made by anchor-heads export"):
        ExportedPredictor(str(tmp_path / "m.pt"))


def test_runtime_without_an_operator(tmp_path):
    """Here a convolution in float64."""
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"])],
        "lacking",
        [onnx.helper.make_tensor_value_info(x, onnx.TensorProto.DOUBLE, None) for x in "xw"],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.DOUBLE, None)],
    )
    opset = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match="lacks an operator of .*m.onnx: .*--plain-operators"):
        ExportedPredictor(str(tmp_path / "m.onnx"))


def test_an_image_that_a_model_fails_on_is_a_value_error(export):
    predictor = ExportedPredictor(export("GuidedAnchorRetinaNet", "torchscript"))

    def refuse(image):
        raise RuntimeError("Runtime assertion failed\nat a node")

    predictor.run = refuse
    with pytest.raises(ValueError, match="model fails on it: Runtime assertion failed$"):
        predictor(PICTURE)


def test_missing_package_names_the_extra(export, monkeypatch):
    path = export("GuidedAnchorRetinaNet", "onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"onnxruntime is not installed: pip install 'anchor-h"):
        ExportedPredictor(path)


def run_alone(folder, hidden, code):
    """Run code in a process in which the hidden packages cannot be imported."""
    script = folder / "alone.py"
    script.write_text(HIDE.format(hidden=hidden) + code)
    result = subprocess.run(
        [sys.executable, "-W", "ignore", script], cwd=folder, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr


def test_the_class_of_the_documentation_needs_numpy_and_onnxruntime_alone(tmp_path, export):
    text = (REPOSITORY / "docs" / "export.md").read_text()
    (code,) = (block for block in text.split("```python\n") if "class Detector" in block)
    path = export("GuidedAnchorRetinaNet", "onnx")
    np.save(tmp_path / "image.npy", PICTURE[:, :, ::-1])
    code = code.split("```")[0] + (
        f"detections = Detector({path!r})(np.load('image.npy'))\n"
        "names, scores, boxes = zip(*detections)\n"
        "np.savez('out.npz', names=names, scores=scores, boxes=boxes)\n"
    )
    run_alone(tmp_path, ["torch", "detectron2", "torchvision", "anchor_heads", "PIL", "cv2"], code)
    ours = np.load(tmp_path / "out.npz")
    expected = ExportedPredictor(path)(PICTURE)["instances"]
    np.testing.assert_allclose(ours["boxes"], expected.pred_boxes.tensor, atol=1e-3)
    np.testing.assert_allclose(ours["scores"], expected.scores, atol=1e-5)
    assert list(ours["names"]) == [CATEGORIES[i]["name"] for i in expected.pred_classes]


def test_the_resizing_of_the_documentation_is_pils_up_to_rounding():
    from PIL import Image

    text = (REPOSITORY / "docs" / "export.md").read_text()
    (code,) = (block for block in text.split("```python\n") if "class Detector" in block)
    names = {}
    exec(code.split("```")[0], names)
    detector = names["Detector"].__new__(names["Detector"])
    for sizes, expected in (((60, 100), (45, 100)), ((300, 1000), (300, 671))):
        detector.info = dict(zip(("min_size_test", "max_size_test"), sizes, strict=True))
        picture = PICTURE.transpose(1, 0, 2)
        resized = detector.resize(picture)
        assert resized.shape[:2] == expected
        pil = np.asarray(Image.fromarray(picture).resize(expected[::-1], Image.BILINEAR), float)
        assert np.abs(resized - pil).max() <= 1


@pytest.mark.parametrize("format", [FORMATS[0], FORMATS[2]])
def test_torch_formats_need_torch_and_torchvision_alone(format, tmp_path, export, eager):
    path = export("GuidedAnchorRPN", format)
    image = images()[161, 72]
    torch.save(image, tmp_path / "image.pt")
    load = {
        "torchscript": f"torch.jit.load({path!r})",
        "torch-export": f"torch.export.load({path!r}).module()",
    }
    code = (
        "import torch, torchvision\n"
        f"model = {load[format]}\n"
        "with torch.no_grad():\n"
        "    torch.save(model(torch.load('image.pt')), 'out.pt')\n"
    )
    run_alone(tmp_path, ["detectron2", "anchor_heads", "fvcore"], code)
    assert_same_detections(torch.load(tmp_path / "out.pt"), detect(eager("GuidedAnchorRPN"), image))
