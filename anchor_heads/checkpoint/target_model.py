"""The model of converted weights: that of a given config, or of the shipped one that matches."""

from argparse import Namespace
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import Tensor

from anchor_heads import model_zoo
from anchor_heads.checkpoint.convert import compare
from anchor_heads.checkpoint.formats import Format
from anchor_heads.checkpoint.read import Checkpoint
from anchor_heads.config import get_cfg
from anchor_heads.engine.setup import load_config


class TargetModel(NamedTuple):
    """The parameters of a model, without values."""

    configs: list[str]
    """Names or paths of the configs of this model."""
    overrides: list[str]
    """Config keys and values in turn."""
    cfg: CfgNode
    state: dict[str, Tensor]
    """Its ``state_dict()``, on the device "meta"."""


def model_of(configs: list[str], overrides: Sequence) -> TargetModel:
    """The model of configs that differ in the training only.

    Args:
        configs (list[str]): paths, or names of shipped configs.
        overrides (Sequence): config keys and values in turn.

    Raises:
        ValueError, FileNotFoundError: if there is no such config or key.
    """
    overrides = [str(x) for x in overrides]
    cfg = load_config(Namespace(config_file=configs[0], opts=overrides))
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):  # needs no memory and no initialisation
        state = build_model(cfg).state_dict()
    return TargetModel(configs, overrides, cfg, state)


def find_model(
    checkpoint: Checkpoint, format: Format, weights: dict[str, Tensor], overrides: Sequence
) -> TargetModel:
    """Find the shipped configs whose model matches the weights.

    Args:
        checkpoint (Checkpoint): the published weights.
        format (Format): their format.
        weights (dict[str, Tensor]): the same, converted.
        overrides (Sequence): config keys and values in turn.

    Raises:
        ValueError: if not exactly one model matches.
    """
    if format.fills:
        raise ValueError(
            f"{format} is part of many models: choose one with --config-file. (To train from it, "
            "use the file in MODEL.WEIGHTS directly.)"
        )
    overrides = [*overrides, *_number_of_classes(format, weights)]
    candidates = _shipped_configs(checkpoint, format, overrides)
    models = [model_of(configs, overrides) for configs in candidates]
    fitting = [x for x in models if not any(compare(weights, x.state, format))]
    if len(fitting) == 1:
        return fitting[0]
    configs = [name for model in fitting or models for name in model.configs]
    reason = "several shipped models" if fitting else "no shipped model"
    style = checkpoint.stride_in_1x1
    kind = "" if style is None else f", with MODEL.RESNETS.STRIDE_IN_1X1 {style} as the file says"
    raise ValueError(
        f"{format}: these weights match {reason}. Choose a config with --config-file. Shipped "
        f"configs for such weights{kind}: {', '.join(configs) or 'none'}."
    )


def difference(checkpoint: Checkpoint, format: Format, cfg: CfgNode) -> str:
    """A difference between a config and weights that names and shapes do not show; "" = none."""
    model = cfg.MODEL
    for key, expected, got in (
        ("META_ARCHITECTURE", format.meta_architecture, model.META_ARCHITECTURE),
        ("PROPOSAL_GENERATOR.NAME", format.proposal_generator, model.PROPOSAL_GENERATOR.NAME),
    ):
        if expected and got != expected:
            return f"MODEL.{key} is {got}, not {expected}"
    expected, got = checkpoint.stride_in_1x1, model.RESNETS.STRIDE_IN_1X1
    if expected is not None and got != expected:
        style = "caffe" if expected else "pytorch"
        return (
            f'their backbone has the style "{style}", but MODEL.RESNETS.STRIDE_IN_1X1 is {got} '
            "(MODEL.PIXEL_MEAN, MODEL.PIXEL_STD and INPUT.FORMAT may differ, too)"
        )
    return ""


def _number_of_classes(format: Format, weights: dict[str, Tensor]) -> list:
    """The override for the number of classes, if it is not that of the shipped configs."""
    classes = format.classes
    if classes is None or classes.layer not in weights:
        return []
    count = classes.count(weights)
    return [] if count == attrgetter(classes.key)(get_cfg()) else [classes.key, count]


# Folders of configs that no published weights are for.
UNPUBLISHED = ("own_data/", "quick_start/", "timm/")


def _shipped_configs(
    checkpoint: Checkpoint, format: Format, overrides: Sequence
) -> list[list[str]]:
    """Names of configs of the format, grouped by model."""
    groups = []
    for name in model_zoo.list_configs():
        cfg = model_zoo.get_config(name, overrides)
        if name.startswith(UNPUBLISHED) or difference(checkpoint, format, cfg):
            continue
        cfg.MODEL.WEIGHTS = ""
        same = [names for model, names in groups if model == cfg.MODEL]
        if same:
            same[0].append(name)
        else:
            groups.append((cfg.MODEL, [name]))
    return [names for _, names in groups]
