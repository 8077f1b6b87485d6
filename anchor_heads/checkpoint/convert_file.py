"""Converts a file of published weights and checks it against the model."""

import os
from collections.abc import Sequence

import torch

from anchor_heads.checkpoint.convert import (
    Converted,
    compare,
    convert,
    recognize,
    without_unread_counters,
)
from anchor_heads.checkpoint.detectron2_loading import unknown_weights
from anchor_heads.checkpoint.formats import Format
from anchor_heads.checkpoint.read import Checkpoint, read_checkpoint
from anchor_heads.checkpoint.target_model import TargetModel, difference, find_model, model_of
from anchor_heads.errors import shorten
from anchor_heads.files import open_and_rename


def convert_file(source: str, target: str, config: str = "", overrides: Sequence = ()) -> str:
    """Convert a file of published weights. Nothing is written unless it matches the model.

    Args:
        source (str): path of a file in one of the known formats.
        target (str): path of the Detectron2 checkpoint to write, ending with ".pth". A file of
            that name is overwritten.
        config (str): path or name of the model's config; "" = the shipped one that matches.
        overrides (Sequence): config keys and values in turn.

    Returns:
        str: a short report.

    Raises:
        OSError: the file, or the folder to write to, is missing.
        ValueError: the format is unknown, or the weights do not match the model.
    """
    _check_paths(source, target)
    checkpoint = read_checkpoint(source)
    format = recognize(checkpoint.weights, checkpoint.version)
    if format is None:
        raise ValueError(_not_published(source, checkpoint))
    converted = convert(checkpoint.weights, format)
    if config:
        model = model_of([config], overrides)
        _check_kind(source, checkpoint, format, model)
    else:
        model = find_model(checkpoint, format, converted.weights, overrides)
    _check_fit(source, format, converted, model)
    weights = without_unread_counters(converted.weights, model.state)
    with open_and_rename(target, "wb") as file:
        torch.save({"model": weights, "__author__": format.framework}, file)
    return _report(source, target, format, converted, model)


def _check_paths(source: str, target: str) -> None:
    if not os.path.isfile(source):
        raise FileNotFoundError(f"There is no file {os.path.abspath(source)}.")
    if not target.endswith(".pth"):
        raise ValueError(f"The name {target} must end with .pth for Detectron2 to read the file.")
    folder = os.path.dirname(os.path.abspath(target))
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"There is no folder {folder} to write to.")
    if source.endswith(".pkl"):
        raise ValueError(
            f"{source} seems to be in Detectron2's own format: use it in MODEL.WEIGHTS directly."
        )


def _not_published(source: str, checkpoint: Checkpoint) -> str:
    if any(key.startswith("backbone.bottom_up.") for key in checkpoint.weights):
        return f"{source} is a Detectron2 checkpoint already: use it in MODEL.WEIGHTS directly."
    return unknown_weights(source, checkpoint.weights)


def _check_kind(source: str, checkpoint: Checkpoint, format: Format, model: TargetModel) -> None:
    found = difference(checkpoint, format, model.cfg)
    if found:
        raise ValueError(
            f"{source} has weights of {format}, which do not match {model.configs[0]}: {found}."
        )


def _check_fit(source: str, format: Format, converted: Converted, model: TargetModel) -> None:
    missing, unexpected, shapes = compare(converted.weights, model.state, format)
    lists = {
        "Unknown keys of the file": converted.unknown,
        "Names that only the file has": unexpected,
        "Names that only the model has": missing,
        "Other shapes in the file": shapes,
    }
    if not any(lists.values()):
        return
    lines = [
        f"{source} has weights of {format}, which do not match {model.configs[0]}."
        + _other_classes(format, converted, model)
    ]
    for title, entries in lists.items():
        if entries:
            lines += [f"{title} ({len(entries)}):", *(f"  {entry}" for entry in entries)]
    raise ValueError("\n".join(lines))


def _other_classes(format: Format, converted: Converted, model: TargetModel) -> str:
    classes = format.classes
    if not classes or not (classes.layer in converted.weights and classes.layer in model.state):
        return ""
    theirs, ours = classes.count(converted.weights), classes.count(model.state)
    if theirs == ours:
        return ""
    return f" They have {theirs} classes, the model {ours}: add {classes.key} {theirs}."


def _report(
    source: str, target: str, format: Format, converted: Converted, model: TargetModel
) -> str:
    used = len(without_unread_counters(converted.weights, model.state))
    part = f"{format.fills}* of " if format.fills else ""
    unused = f" ({shorten(converted.unused, 3)})" if converted.unused else ""
    lines = [
        f"{source}: {format}.",
        f"{used} tensors fill all of {part}the model of {' = '.join(model.configs)}.",
        f"Not needed: {len(converted.weights) - used} counters of batch norms, "
        f"{len(converted.unused)} other tensors{unused}.",
    ]
    if model.overrides:
        lines.append(f"Use it with {' '.join(model.overrides)}")
    if format.note:
        lines.append(format.note)
    return "\n".join([*lines, f"Wrote {target}"])
