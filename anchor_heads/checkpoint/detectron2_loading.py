"""Files that ``MODEL.WEIGHTS`` names, as Detectron2's checkpointer understands them."""

import logging
from collections.abc import Iterable

import torch
from detectron2.utils.file_io import PathManager
from torch import nn

from anchor_heads.checkpoint.convert import convert, recognize, without_unread_counters
from anchor_heads.checkpoint.read import find_weights, safe_reading
from anchor_heads.checkpoint.safe_pickle import load_pickle
from anchor_heads.errors import shorten

logger = logging.getLogger(__name__)


def read_weights(file: str, model: nn.Module) -> dict:
    """Read a PyTorch file, and convert it if it is of a known format.

    Args:
        file (str): path of the file.
        model (nn.Module): what the weights are for.

    Returns:
        dict: see :func:`convert_loaded`.

    Raises:
        ValueError: if the file is damaged, has no weights, or asks for objects that could run code.
    """
    with safe_reading(file), PathManager.open(file, "rb") as stream:
        loaded = torch.load(stream, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict):
        raise ValueError(f"{file} has no weights, but a {type(loaded).__name__}.")
    return convert_loaded(loaded, file, model.state_dict(), type(model).__name__)


def read_pickled_weights(file: str) -> dict:
    """Read a ``.pkl`` file of Detectron2's or Caffe2's model zoo without running code from it.

    Returns:
        dict: as Detectron2's checkpointer makes it of such a file.

    Raises:
        ValueError: if the file is damaged, has no weights, or asks for objects that could run code.
    """
    with PathManager.open(file, "rb") as stream:
        data = load_pickle(stream, file)
    if not isinstance(data, dict):
        raise ValueError(f"{file} has no weights, but a {type(data).__name__}.")
    if "model" in data and "__author__" in data:
        return data
    data = data.get("blobs", data)  # Caffe2's detectors have them, its ImageNet models do not
    weights = {key: x for key, x in data.items() if not key.endswith("_momentum")}
    return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}


def convert_loaded(loaded: dict, file: str, model: Iterable[str], meta_architecture: str) -> dict:
    """Convert the contents of a file if they are of a known format.

    Args:
        loaded (dict): what ``torch.load`` returned.
        file (str): path of the file, for messages.
        model (Iterable[str]): names in the model that the weights are for.
        meta_architecture (str): name of its class.

    Returns:
        dict with the entry "model", or ``loaded`` itself. Keys that are not known are left as
        they are in "model", so that the checkpointer warns of them.

    Raises:
        ValueError: the file has mmdetection's form, which Detectron2 cannot read, but no model
            that is known.
    """
    checkpoint = find_weights(loaded)
    names = set(model)
    if checkpoint and not names.isdisjoint(checkpoint.weights):
        return loaded  # a network that has these very names
    format = recognize(checkpoint.weights, checkpoint.version) if checkpoint else None
    if format is None:
        if "state_dict" in loaded and "model" not in loaded:
            raise ValueError(unknown_weights(file, checkpoint.weights if checkpoint else loaded))
        return loaded
    converted = convert(checkpoint.weights, format)
    logger.info(f"Converting {file}: {format}. {format.note}".rstrip())
    if format.meta_architecture not in ("", meta_architecture):
        logger.warning(
            f"{file} has weights of {format}, whose MODEL.META_ARCHITECTURE is "
            f"{format.meta_architecture}, not {meta_architecture}: only what both have is used."
        )
    unknown = {key: checkpoint.weights[key] for key in converted.unknown}
    return {"model": without_unread_counters(converted.weights, names) | unknown}


def unknown_weights(file: str, keys: Iterable[str]) -> str:
    """What to say of a file with these keys that is of no known format."""
    return (
        f"{file} is of no format that is known here, and not in Detectron2's: its keys are "
        f"{shorten(list(keys), 5)}. Known are Guided Anchoring of mmdetection, FreeAnchor of "
        "maskrcnn-benchmark, DA-RetinaNet of its authors' fork of mmdetection, and ImageNet "
        "ResNets with torchvision's names."
    )
