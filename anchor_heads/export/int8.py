"""Convolutions of an ONNX model in 8 bits."""

import itertools
import json
import os
import tempfile
from collections.abc import Iterable

import numpy as np

from .formats import require
from .runtime import ExportedPredictor


def quantize(path: str, images: Iterable[np.ndarray]) -> None:
    """Quantise the convolutions of an exported ONNX model, in place, by onnxruntime's static
    quantisation: weights by channel, activations by the range that they have on the images.

    Args:
        path (str): the model.
        images (iterable of np.ndarray): (height, width, 3) uint8, BGR; some dozens like those that
            the model is for.

    Raises:
        ImportError: if onnxruntime is not installed.
        ValueError: if there is no image.
    """
    require("onnxruntime", "onnx")
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    prepare = ExportedPredictor(path).prepare
    inputs = ({"image": prepare(image)} for image in images)
    first = next(inputs, None)
    if first is None:
        raise ValueError("there is no image to calibrate int8 on: --calibration-images names none")

    remaining = itertools.chain([first], inputs)

    class Images(CalibrationDataReader):
        def get_next(self):
            return next(remaining, None)

    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(path))) as folder:
        quantized = os.path.join(folder, "int8.onnx")
        quantize_static(
            path,
            quantized,
            Images(),
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        model = onnx.load(quantized)
    del model.metadata_props[:]
    metadata = ExportedPredictor(path).metadata | {"precision": "int8"}
    onnx.helper.set_model_props(model, {"anchor_heads": json.dumps(metadata)})
    onnx.save(model, path)
