"""What runs a model in inference, besides eager PyTorch."""

import copy
import os
import tempfile
from collections.abc import Callable
from functools import partial

from torch import nn

from anchor_heads.analysis.benchmark.workload import forward
from anchor_heads.export import SUFFIXES, ExportedPredictor, compile_model, export_model


def run_exported(format: str, model: nn.Module, batch: list[dict], bf16: bool = False) -> Callable:
    """A model in an exported file of the batch's image size, batch norms folded.

    Raises:
        ValueError: if the batch has several images.
    """
    if len(batch) > 1:
        raise ValueError("exported models take one image: --runtime needs --batch-size 1")
    image = batch[0]["image"].numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, f"model{SUFFIXES[format]}")
        metadata = {"categories": [], "min_size_test": 0, "max_size_test": 0}
        export_model(copy.deepcopy(model), path, format, metadata, image.shape[1:], bf16=bf16)
        run = ExportedPredictor(path).run
    return lambda batch: run(image)


def run_compiled(model: nn.Module, batch: list[dict], dtype: str = "float32") -> Callable:
    """A model with backbone and head compiled for the batch's size."""
    compiled = copy.deepcopy(model)
    compile_model(compiled, dynamic=False)
    return partial(forward, compiled, dtype=dtype)


# Each takes a model in eval mode and a batch, and returns what predicts on a batch. Those with
# bfloat16 compute in it what autocast does.
RUNTIMES: dict[str, Callable[[nn.Module, list[dict]], Callable[[list[dict]], object]]] = {
    "onnxruntime": partial(run_exported, "onnx"),
    "torchscript": partial(run_exported, "torchscript"),
    "torchscript-bfloat16": partial(run_exported, "torchscript", bf16=True),
    "torch-export": partial(run_exported, "torch-export"),
    "compile": run_compiled,
    "compile-bfloat16": partial(run_compiled, dtype="bfloat16"),
}
