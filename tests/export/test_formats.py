import copy

import onnx
import pytest
import torch
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling import build_model
from exported_models import (
    FORMATS,
    MODELS,
    assert_same_detections,
    detect,
    grey_image,
    images,
)

from anchor_heads import model_zoo
from anchor_heads.anchor_generation.strategy import get_anchor_strategy
from anchor_heads.export import SUFFIXES, ExportedPredictor, check_format, describe, export_model
from anchor_heads.export.recording import (
    fold_batch_norms,
    pad_same,
    plain_deform_conv2d,
    resize_shortest_edge,
)


def run(path, image):
    return ExportedPredictor(path).run(image.numpy())


def test_what_torch_export_records_needs_a_newer_torch(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.8.0+cpu")
    check_format("m.pt", "torchscript")
    for format in ("onnx", "torch-export"):
        with pytest.raises(
            ImportError, match=f"^the format {format} needs torch >= 2.9, found 2.8.0"
        ):
            check_format(f"m{SUFFIXES[format]}", format)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", MODELS)
def test_equals_eager_at_every_size(name, format, export, eager):
    path, model = export(name, format), eager(name)
    predictor = ExportedPredictor(path)
    for image in images().values():
        expected = detect(model, image)
        assert len(expected[0]) > 3
        assert_same_detections(predictor.run(image.numpy()), expected)
    grey = grey_image()
    assert_same_detections(predictor.run(grey.numpy()), detect(model, grey))


def test_an_onnx_file_equals_eager(export, eager):
    """One model of the slow tests above, in every run of the tests."""
    path, model = export("GuidedAnchorRetinaNet", "onnx"), eager("GuidedAnchorRetinaNet")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    for image in images().values():
        assert_same_detections(run(path, image), detect(model, image))


@pytest.mark.parametrize("name", ["GuidedAnchorRetinaNet", "GuidedAnchorRPN"])
def test_the_images_keep_few_most_and_no_locations(name, eager):
    """So that the test above covers the location filter."""
    model = eager(name)
    strategy = get_anchor_strategy(model)
    shares = []
    for image in [*images().values(), grey_image()]:
        features = strategy.features(strategy.preprocess(image))
        with torch.no_grad():
            levels = strategy.level_anchors(features, strategy.head(features), image.shape[1:])
        shares.append(
            sum(level.num_kept for level in levels) / sum(level.num_locations for level in levels)
        )
    assert 0 < shares[0] < 0.2 and shares[1] > 0.8 and 0.6 < shares[2] < 1 and shares[3] == 0


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", MODELS)
def test_onnx_file_is_valid_and_has_operators_of_onnx_alone(name, export):
    model = onnx.load(export(name, "onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    (opset,) = (x.version for x in model.opset_import if x.domain == "")
    assert opset >= 19
    (image,) = model.graph.input
    channels, height, width = image.type.tensor_type.shape.dim
    assert channels.dim_value == 3 and height.dim_param and width.dim_param
    assert [x.name for x in model.graph.output] == ["boxes", "scores", "classes"]


def test_torchscript_has_no_python_function(export):
    graph = torch.jit.load(export("GuidedAnchorRetinaNet", "torchscript")).inlined_graph
    kinds = {node.kind() for node in graph.nodes()}
    assert "torchvision::deform_conv2d" in kinds
    assert not any(kind.startswith(("prim::PythonOp", "prim::Loop")) for kind in kinds)


@pytest.mark.parametrize("format", ["onnx", "torchscript"])
def test_metadata_travels_in_the_file(format, export):
    metadata = ExportedPredictor(export("GuidedAnchorRetinaNet", format)).metadata
    assert [x["name"] for x in metadata["categories"]] == ["square", "bar"]
    assert metadata["input_format"] == "BGR"
    assert metadata["pixel_std"] == [50.0] * 3 and len(metadata["pixel_mean"]) == 3
    assert metadata["anchor_heads_version"] and metadata["max_size_test"] == 1333


@pytest.mark.parametrize("format", FORMATS)
def test_float_images_of_one_size(format, export, eager):
    path = export("DynamicAnchorRetinaNet", format, image_type="float32", size=(96, 130))
    predictor = ExportedPredictor(path)
    image = images()[96, 130].float() * 1.3
    assert_same_detections(
        predictor.run(image.numpy()), detect(eager("DynamicAnchorRetinaNet"), image)
    )
    with pytest.raises(ValueError, match="takes images of 96x130 pixels, and this is one of 31x33"):
        predictor(images()[31, 33].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("size", [(161, 72), (31, 33), (40, 200)])
def test_resizes_as_detectron2_up_to_rounding(size):
    """PIL, by which Detectron2 resizes, rounds after each of two passes."""
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    picture = image.permute(1, 2, 0).numpy()
    expected = ResizeShortestEdge([64, 64], 100).get_transform(picture).apply_image(picture)
    resized = resize_shortest_edge(image, 64, 100).permute(1, 2, 0)
    assert resized.shape == expected.shape
    difference = (resized - torch.tensor(expected)).abs()
    assert difference.max() <= 1 and difference.mean() < 0.2


@pytest.mark.parametrize("format", FORMATS)
def test_resizes_in_the_model(format, export, eager):
    overrides = ("INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 100)
    path = export("RetinaNet", format, resize=True, overrides=overrides)
    model = eager("RetinaNet")
    for size in ((161, 72), (31, 33)):
        image = images()[size]
        resized = resize_shortest_edge(image, 64, 100)
        expected, found = detect(model, resized, height=size[0], width=size[1]), run(path, image)
        if format == "onnx":  # onnxruntime rounds a pixel in the middle of two levels either way
            scores = torch.as_tensor(found[1])
            torch.testing.assert_close(scores[:5], expected[1][:5], rtol=0, atol=0.01)
        else:
            assert_same_detections(found, expected)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["GuidedAnchorRetinaNet", "DynamicAnchorRetinaNet"])
def test_plain_operators_in_place_of_deformable_convolutions(name, export, eager):
    path = export(name, "onnx", plain=True)
    assert "DeformConv" not in {node.op_type for node in onnx.load(path).graph.node}
    for image in images().values():
        assert_same_detections(run(path, image), detect(eager(name), image))


@pytest.mark.parametrize("groups,kernel", [(4, 3), (1, 1), (2, 5)])
def test_plain_deformable_convolution(groups, kernel):
    x, weight, bias = torch.randn(1, 8, 5, 7), torch.randn(6, 8, kernel, kernel), torch.randn(6)
    offset = torch.randn(1, groups * 2 * kernel**2, 5, 7) * 3
    mask = torch.rand(1, groups * kernel**2, 5, 7)
    padding = [kernel // 2] * 2
    from torchvision.ops import deform_conv2d

    expected = deform_conv2d(x, offset, weight, bias, padding=padding, mask=mask)
    ours = plain_deform_conv2d(x, offset, weight, bias, padding=padding, mask=mask)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16(export, eager):
    path = export("RetinaNet", "torchscript", bf16=True)
    image = images()[96, 130]
    scores, expected = run(path, image)[1], detect(eager("RetinaNet"), image)[1]
    assert scores.dtype == torch.float32 and not torch.equal(scores[:20], expected[:20])
    torch.testing.assert_close(scores[:20], expected[:20], rtol=0, atol=0.03)


def test_folded_batch_norms(eager):
    model, image = eager("RetinaNet"), images()[96, 130]
    expected = detect(model, image)
    fold_batch_norms(model)
    assert not any("norm" in name for name, _ in model.named_modules())
    assert_same_detections(detect(model, image), expected)


def test_what_cannot_be_exported(export, eager, tmp_path):
    model = eager("RetinaNet")
    for format, file, message in (
        ("tflite", "m.onnx", 'no format "tflite": choose onnx, torchscript, torch-export'),
        ("onnx", "m.pt", "a file of format onnx ends with .onnx"),
    ):
        with pytest.raises(ValueError, match=message):
            export_model(model, str(tmp_path / file), format, {})
    with pytest.raises(ValueError, match="Conv2d cannot be exported"):
        export_model(torch.nn.Conv2d(1, 1, 1), str(tmp_path / "m.onnx"), "onnx", {})
    with pytest.raises(ValueError, match="bfloat16 is for --format torchscript"):
        export_model(model, str(tmp_path / "m.onnx"), "onnx", {}, bf16=True)


def test_published_boxes_of_free_anchor_cannot_be_exported(eager, tmp_path):
    model = eager("FreeAnchorRetinaNet")
    model.legacy_boxes = True
    with pytest.raises(ValueError, match="LEGACY_BOXES True cannot be exported"):
        export_model(model, str(tmp_path / "m.pt"), "torchscript", {})


def test_detectron2_is_left_as_it_was(export):
    from detectron2.structures import Boxes
    from torchvision.ops import boxes

    before = Boxes.__init__, boxes.batched_nms
    export("FreeAnchorRPN", "torchscript")
    assert before == (Boxes.__init__, boxes.batched_nms)
    assert Boxes(torch.zeros(0)).tensor.shape == (0, 4)


@pytest.mark.parametrize("stride, kernel", [(1, 3), (2, 3), (2, 5), (1, 5)])
def test_padding_of_sizes_that_the_stride_divides_is_timms(stride, kernel):
    timm_padding = pytest.importorskip("timm.layers.padding")
    x = torch.rand(1, 2, 8, 12)
    arguments = (kernel, kernel), (stride, stride)
    assert torch.equal(pad_same(x, *arguments), timm_padding.pad_same(x, *arguments))


# Without torch-export, whose file refuses an image of one cell on the coarsest stage.
@pytest.mark.parametrize("format", FORMATS[:2])
def test_a_timm_backbone_is_recorded_for_every_size(format, tmp_path):
    pytest.importorskip("timm")
    cfg = model_zoo.get_config("own_data/retinanet", ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.RETINANET.PRIOR_PROB = False, 0.5
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    path = str(tmp_path / f"model{SUFFIXES[format]}")
    export_model(copy.deepcopy(model), path, format, describe(cfg, []))
    for image in images().values():
        expected = detect(model, image)
        assert len(expected[0]) > 3
        assert_same_detections(run(path, image), expected)
