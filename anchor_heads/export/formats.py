"""From a detector to a file: ONNX, TorchScript, torch.export."""

import importlib
import json
import warnings
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn

from anchor_heads import __version__
from anchor_heads._private import sizes_may_be_one
from anchor_heads._requirements import is_older

from .recording import Recordable, fold_batch_norms, recordable

# Where TorchScript and torch.export files keep the metadata.
METADATA_FILE = "anchor_heads.json"
INPUT, OUTPUTS = "image", ("boxes", "scores", "classes")
OPSET = 20
# Of the image that is recorded. Any will do that has several cells on the coarsest level.
EXAMPLE_SIZE = (608, 800)
SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "torch-export": ".pt2"}
# torch.export has prefer_deferred_runtime_asserts_over_guards since this version.
MIN_TORCH_OF_TORCH_EXPORT = "2.9"


def export_model(
    model: nn.Module,
    path: str,
    format: str,
    metadata: dict,
    size: tuple[int, int] | None = None,
    image_type: str = "uint8",
    resize: bool = False,
    plain: bool = False,
    bf16: bool = False,
) -> None:
    """Write a detector to a file that runs without Detectron2 and this package.

    It takes one image, (C, height, width), and gives boxes (n, 4), scores (n,) and classes (n,)
    after NMS, in pixels of the image and the best first: see :class:`Recordable`.

    Args:
        model (nn.Module): a dense detector or GeneralizedRCNN, on the CPU, of which boxes alone
            are exported. It cannot be trained afterwards: batch norms are folded.
        path (str): of the file, with the suffix of the format in ``SUFFIXES``.
        format (str): a key of ``SUFFIXES``.
        metadata (dict): of :func:`describe`; is kept in the file, with the other arguments.
        size (tuple[int, int] or None): the height and width that images must have; None for any.
        image_type (str): "uint8" or "float32", of the image.
        resize (bool): whether the model resizes images to its test size, or its user does.
        plain (bool): use no deformable convolution, but the operators that make one.
        bf16 (bool): compute in bfloat16 what autocast does; TorchScript only.

    Raises:
        ValueError: if there is no such format, the suffix is another one's, the model is of another
            kind, or the format has no bfloat16.
        ImportError: if the format needs a package that is not installed, or a newer torch.
    """
    check_format(path, format)
    if not isinstance(model, (DenseDetector, GeneralizedRCNN)):
        raise ValueError(
            f"{type(model).__name__} cannot be exported: the one-stage models and GeneralizedRCNN "
            "can. Put a ProposalNetwork into a GeneralizedRCNN"
        )
    if bf16 and format != "torchscript":
        raise ValueError("bfloat16 is for --format torchscript: other runtimes compute in float32")
    metadata = metadata | {
        "size": size,
        "image_type": image_type,
        "resize": "in the model" if resize else "by the user",
        "precision": "bfloat16" if bf16 else "float32",
    }
    fold_batch_norms(model)
    test_size = None
    if resize and metadata["min_size_test"] > 0:
        test_size = metadata["min_size_test"], metadata["max_size_test"]
    recorded = Recordable(model, test_size, bf16)
    shape = len(model.pixel_mean), *(size or EXAMPLE_SIZE)
    image = torch.zeros(shape, dtype=getattr(torch, image_type))
    if isinstance(model, GeneralizedRCNN):
        model.roi_heads.mask_on = model.roi_heads.keypoint_on = False
    with torch.no_grad():
        _WRITE[format](recorded, image, path, metadata, size is None, plain)


def describe(cfg: CfgNode, categories: Sequence[dict]) -> dict:
    """What is to be known of a model to use it: classes, pixels, test size.

    Args:
        cfg (CfgNode): the model's config.
        categories (sequence of dict): "id" and "name" of each class.

    Returns:
        dict: of values that JSON has.
    """
    return {
        "categories": list(categories),
        "meta_architecture": cfg.MODEL.META_ARCHITECTURE,
        "input_format": cfg.INPUT.FORMAT,
        "pixel_mean": list(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": list(cfg.MODEL.PIXEL_STD),
        "min_size_test": cfg.INPUT.MIN_SIZE_TEST,
        "max_size_test": cfg.INPUT.MAX_SIZE_TEST,
        "anchor_heads_version": __version__,
    }


def check_format(path: str, format: str) -> None:
    """
    Raises:
        ValueError: if there is no such format, or the suffix of the file is another one's.
        ImportError: if the format needs a package that is not installed, or a newer torch.
    """
    if format not in SUFFIXES:
        raise ValueError(f'There is no format "{format}": choose {", ".join(SUFFIXES)}')
    if not path.endswith(SUFFIXES[format]):
        raise ValueError(f"{path}: a file of format {format} ends with {SUFFIXES[format]}")
    if format != "torchscript" and is_older(torch.__version__, MIN_TORCH_OF_TORCH_EXPORT):
        raise ImportError(
            f"the format {format} needs torch >= {MIN_TORCH_OF_TORCH_EXPORT}, found "
            f"{torch.__version__}: install a newer one, or choose the format torchscript"
        )
    if format == "onnx":
        require("onnx", "onnxscript")


def require(*packages: str) -> None:
    """
    Raises:
        ImportError: if one of the packages is not installed.
    """
    for package in packages:
        try:
            importlib.import_module(package)
        except ModuleNotFoundError as error:
            if error.name != package:
                raise
            raise ImportError(
                f"{package} is not installed: pip install 'anchor-heads[export]'"
            ) from None


def _record(recorded, image, any_size, plain, nms=None):
    """By torch.export."""
    sizes = {1: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC} if any_size else None
    with recordable(recorded.model, nms, plain), sizes_may_be_one():
        return torch.export.export(
            recorded,
            (image,),
            dynamic_shapes={INPUT: sizes},
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )


def _write_torch_export(recorded, image, path, metadata, any_size, plain):
    program = _record(recorded, image, any_size, plain)
    torch.export.save(program, path, extra_files={METADATA_FILE: json.dumps(metadata)})


def _write_torchscript(recorded, image, path, metadata, any_size, plain):
    with recordable(recorded.model, plain=plain), warnings.catch_warnings():
        # Of constants in the trace, which are none of the image; of TorchScript's age.
        warnings.simplefilter("ignore")
        trace = torch.jit.freeze(torch.jit.trace(recorded, image, check_trace=False))
        torch.jit.save(trace, path, _extra_files={METADATA_FILE: json.dumps(metadata)})


def _write_onnx(recorded, image, path, metadata, any_size, plain):
    from .onnx_operators import TRANSLATIONS, onnx_nms_by_class

    program = torch.onnx.export(
        _record(recorded, image, any_size, plain, onnx_nms_by_class),
        dynamo=True,
        opset_version=OPSET,
        input_names=[INPUT],
        output_names=OUTPUTS,
        custom_translation_table=TRANSLATIONS,
        verbose=False,
    )
    program.model.metadata_props["anchor_heads"] = json.dumps(metadata)
    program.save(path)


_WRITE = {
    "onnx": _write_onnx,
    "torchscript": _write_torchscript,
    "torch-export": _write_torch_export,
}
