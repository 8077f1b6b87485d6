"""Published weights in ``MODEL.WEIGHTS``, wherever Detectron2's checkpointer loads them."""

import logging
from collections.abc import Iterable

import torch
from detectron2.checkpoint import DetectionCheckpointer

from anchor_heads.checkpoint.convert import convert, recognize, without_unread_counters
from anchor_heads.checkpoint.read import find_weights, safe_reading
from anchor_heads.data.coco_json import shorten
from anchor_heads.modeling.distributed import unwrap

logger = logging.getLogger(__name__)


def extend_detection_checkpointer() -> None:
    """Let Detectron2's checkpointer understand the formats of :mod:`anchor_heads.checkpoint`.

    ``DefaultPredictor`` and others make that checkpointer by themselves, so its one method that
    reads PyTorch files is replaced. What it reads of files in Detectron2's own format, or in none
    that is known, stays the same object; ``.pkl`` files do not come here.
    """
    DetectionCheckpointer._torch_load = _torch_load


def _torch_load(self: DetectionCheckpointer, file: str) -> dict:
    with safe_reading(file), self.path_manager.open(file, "rb") as stream:
        loaded = torch.load(stream, map_location="cpu", weights_only=True)
    model = unwrap(self.model)
    return convert_loaded(loaded, file, model.state_dict(), type(model).__name__)


def convert_loaded(loaded, file: str, model: Iterable[str], meta_architecture: str):
    """Convert the contents of a file if they are of a known format.

    Args:
        loaded: what ``torch.load`` returned.
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
        if isinstance(loaded, dict) and "state_dict" in loaded and "model" not in loaded:
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
