"""Exported detectors, behind the interface of Detectron2's DefaultPredictor."""

import json
import os
import pickle
import warnings
from collections.abc import Callable
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances

from anchor_heads.config import get_cfg
from anchor_heads.errors import first_line

from .formats import METADATA_FILE, SUFFIXES, require


def is_exported(path: str | None) -> bool:
    """Whether a file is an exported detector and not a checkpoint.

    The suffix decides, and for ``.pt``, which checkpoints have too, what is in the file.
    """
    if not path or not path.endswith(tuple(SUFFIXES.values())):
        return False
    return not (path.endswith(SUFFIXES["torchscript"]) and _is_checkpoint(path))


def _is_checkpoint(path: str) -> bool:
    """Whether a ``.pt`` file is of torch.save; one that is not there, or is damaged, is not."""
    if "://" in path:  # exported files are not read from addresses
        return True
    if not os.path.isfile(path):
        return False
    if not is_zipfile(path):
        with open(path, "rb") as file:
            return file.read(1) == pickle.PROTO  # as torch.save wrote before its version 1.6
    with ZipFile(path) as file:  # TorchScript has its constants in a file of their own
        return not any(name.endswith("/constants.pkl") for name in file.namelist())


class ExportedPredictor:
    """Runs an exported detector on pictures, as DefaultPredictor runs a model."""

    def __init__(self, path: str):
        """
        Args:
            path (str): a file of :func:`anchor_heads.export.export_model`.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file was not made by this package, or onnxruntime lacks an operator.
            ImportError: if onnxruntime is needed and not installed.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no file {os.path.abspath(path)}")
        self.path = path
        load = {".onnx": _load_onnx, ".pt": _load_torchscript, ".pt2": _load_torch_export}
        self.run, self.metadata = load[os.path.splitext(path)[1]](path)
        if not self.metadata:
            raise ValueError(f"{path} was not made by anchor-heads export")
        self.categories = self.metadata["categories"]
        sizes = self.metadata["min_size_test"], self.metadata["max_size_test"]
        # The transform of DefaultPredictor; 0 keeps the size.
        resize = self.metadata["resize"] == "by the user"
        self.aug = ResizeShortestEdge([sizes[0] if resize else 0] * 2, sizes[1])

    def __call__(self, original_image: np.ndarray) -> dict[str, Instances]:
        """
        Args:
            original_image (np.ndarray): (height, width, 3) uint8, BGR.

        Returns:
            dict[str, Instances]: "instances", as those of DefaultPredictor.

        Raises:
            ValueError: if the model is for images of one size, and this is another one; if it fails
                on this image.
        """
        height, width = original_image.shape[:2]
        image = self.prepare(original_image)
        try:
            boxes, scores, classes = (torch.as_tensor(x) for x in self.run(image))
        except Exception as error:  # each runtime has its own
            raise ValueError(f"the exported model fails on it: {first_line(error)}") from error
        instances = Instances(
            image.shape[1:], pred_boxes=Boxes(boxes), scores=scores, pred_classes=classes
        )
        return {"instances": detector_postprocess(instances, height, width)}

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """The (C, height, width) input of the model, of an image as in :meth:`__call__`.

        Raises:
            ValueError: if the model is for images of one size, and this is another one.
        """
        if self.metadata["input_format"] == "RGB":
            image = image[:, :, ::-1]
        image = self.aug.get_transform(image).apply_image(image)
        size = self.metadata["size"]
        if size and tuple(size) != image.shape[:2]:
            raise ValueError(
                f"the model takes images of {size[0]}x{size[1]} pixels, and this is one of "
                f"{image.shape[0]}x{image.shape[1]}: export it without --size"
            )
        return np.ascontiguousarray(image.transpose(2, 0, 1), self.metadata["image_type"])

    def config(self) -> CfgNode:
        """The keys that predictions depend on, in a config."""
        cfg = get_cfg()
        cfg.MODEL.WEIGHTS = self.path
        cfg.INPUT.FORMAT = self.metadata["input_format"]
        cfg.INPUT.MIN_SIZE_TEST = self.metadata["min_size_test"]
        cfg.INPUT.MAX_SIZE_TEST = self.metadata["max_size_test"]
        return cfg


def onnx_session(path: str):
    """An onnxruntime session with as many threads as torch has.

    Raises:
        ImportError: if onnxruntime is not installed.
        ValueError: if it cannot run the file.
    """
    require("onnxruntime")
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        return onnxruntime.InferenceSession(path, options, onnxruntime.get_available_providers())
    except errors.NotImplemented as error:
        raise ValueError(
            f"onnxruntime {onnxruntime.__version__} lacks an operator of {path}: export the model "
            f"with --plain-operators, or install a newer onnxruntime ({first_line(error)})"
        ) from error
    except (
        errors.InvalidArgument,
        errors.InvalidProtobuf,
        errors.InvalidGraph,
        errors.Fail,
    ) as error:
        raise ValueError(f"{path} is not an ONNX model: {first_line(error)}") from error


def _load_onnx(path):
    session = onnx_session(path)
    properties = session.get_modelmeta().custom_metadata_map
    metadata = json.loads(properties.get("anchor_heads", "{}"))
    return lambda image: session.run(None, {session.get_inputs()[0].name: image}), metadata


def _load_torchscript(path):
    files = {METADATA_FILE: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of TorchScript's age
            model = torch.jit.load(path, "cpu", files)
    except RuntimeError as error:
        raise ValueError(f"{path} is not a TorchScript model: {first_line(error)}") from error
    return _run_module(model), json.loads(files[METADATA_FILE] or "{}")


def _load_torch_export(path):
    if not is_zipfile(path):  # torch would print its traceback
        raise ValueError(f"{path} is not a torch.export model: it is not a ZIP archive")
    files = {METADATA_FILE: ""}
    try:
        model = torch.export.load(path, extra_files=files).module()
    except (RuntimeError, BadZipFile) as error:
        raise ValueError(f"{path} is not a torch.export model: {first_line(error)}") from error
    return _run_module(model), json.loads(files[METADATA_FILE] or "{}")


def _run_module(model) -> Callable:
    @torch.no_grad()
    def run(image):
        return model(torch.from_numpy(image))

    return run
