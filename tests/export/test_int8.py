import numpy as np
import onnx
import pytest
from exported_models import CATEGORIES, config, detect, detector, images

from anchor_heads.export import ExportedPredictor, describe, export_model
from anchor_heads.export.int8 import quantize


@pytest.mark.exhaustive
def test_int8_detects_nearly_the_same(tmp_path):
    cfg = config("FreeAnchorRetinaNet", tmp_path)
    model = detector(cfg)
    image = images()[161, 72]
    expected = detect(model, image)
    path = str(tmp_path / "m.onnx")
    export_model(model, path, "onnx", describe(cfg, CATEGORIES))
    pictures = [x.permute(1, 2, 0).numpy() for x in images().values()]
    quantize(path, pictures)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert "QuantizeLinear" in kinds
    predictor = ExportedPredictor(path)
    assert predictor.metadata["precision"] == "int8" and predictor.categories == CATEGORIES
    _, scores, _ = predictor.run(image.numpy())
    assert not np.array_equal(scores[:20], expected[1][:20])
    np.testing.assert_allclose(scores[:20], expected[1][:20], atol=0.05)
    with pytest.raises(ValueError, match="--calibration-images names none"):
        quantize(path, [])
