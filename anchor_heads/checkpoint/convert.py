"""Conversion of published weights: pure functions on dicts of tensors."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from anchor_heads.checkpoint import image_net, maskrcnn_benchmark, mmdetection
from anchor_heads.checkpoint.formats import Format

FORMATS = (*mmdetection.FORMATS, *maskrcnn_benchmark.FORMATS, *image_net.FORMATS)

# Batch norms count the batches of the training. Detectron2 does not use it, and not all have it.
COUNTER = "num_batches_tracked"


class Converted(NamedTuple):
    """Weights with Detectron2's names, and the keys that have no name there."""

    weights: dict[str, Tensor]
    unused: list[str]
    """Keys known to have no learned values."""
    unknown: list[str]


class Mismatch(NamedTuple):
    """The differences between weights and a model."""

    missing: list[str]
    """Names that only the model has."""
    unexpected: list[str]
    """Names that only the weights have."""
    shapes: list[str]
    """Parameters with different shapes, with both shapes."""


def recognize(keys: Iterable[str], version: str = "") -> Format | None:
    """Recognise the format of weights from their keys.

    Args:
        keys (Iterable[str]): keys of the weights.
        version (str): version of mmdetection, if known: GA-RPN and GA-RetinaNet have the same
            keys in 1.x and 2.x.

    Returns:
        Format | None: None if the format is unknown.
    """
    keys = list(keys)
    for format in FORMATS:
        is_version = not format.versions or version.startswith(format.versions)
        if is_version and all(
            any(re.fullmatch(pattern, key) for key in keys) for pattern in format.signature_keys
        ):
            return format
    return None


def convert(weights: dict[str, Tensor], format: Format) -> Converted:
    """Rename weights, and transform those with other conventions.

    Args:
        weights (dict[str, Tensor]): as published; not modified.
        format (Format): their format, from :func:`recognize`.

    Raises:
        ValueError: if a tensor does not have the shape of the format.
    """
    converted, unused, unknown = {}, [], []
    for key, tensor in weights.items():
        name = _name(key, format)
        if name is not None:
            converted[name] = _value(key, tensor, format)
        else:
            known = any(re.fullmatch(pattern, key) for pattern in format.unused)
            (unused if known else unknown).append(key)
    return Converted(converted, unused, unknown)


def compare(weights: dict[str, Tensor], model: dict[str, Tensor], format: Format) -> Mismatch:
    """Compare converted weights with a model.

    Counters of batch norms are ignored.

    Args:
        weights (dict[str, Tensor]): converted.
        model (dict[str, Tensor]): the model's ``state_dict()``.
        format (Format): format of the weights.
    """
    ours, theirs = (
        {name: tuple(x.shape) for name, x in tensors.items() if not name.endswith(COUNTER)}
        for tensors in (model, weights)
    )
    return Mismatch(
        missing=[x for x in ours if x not in theirs and x.startswith(format.fills)],
        unexpected=[x for x in theirs if x not in ours],
        shapes=[
            f"{x}: {theirs[x]}, in the model {ours[x]}"
            for x in theirs
            if x in ours and ours[x] != theirs[x]
        ],
    )


def without_unread_counters(weights: dict[str, Tensor], model: Iterable[str]) -> dict[str, Tensor]:
    """The weights without counters of batch norms that the model does not have."""
    names = set(model)
    return {name: x for name, x in weights.items() if name in names or not name.endswith(COUNTER)}


def _name(key: str, format: Format) -> str | None:
    for pattern, name in format.names.items():
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(name)
    return None


def _value(key: str, tensor: Tensor, format: Format) -> Tensor:
    for pattern, change in format.values.items():
        if re.fullmatch(pattern, key):
            return change(tensor)
    return tensor
