"""The configs by name, from a checkout as well as from an installed wheel.

A name is a config's path below ``configs/``, such as "free_anchor/free_anchor_R_50_FPN_1x.yaml".
"""

import difflib
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from anchor_heads import _layout
from anchor_heads.config import get_cfg

SUFFIX = ".yaml"


def list_configs() -> list[str]:
    """The names of all models, sorted; the ``Base-*.yaml`` files they build on are left out."""
    return [name for name in _config_names() if "Base-" not in name]


def get_config_file(name: str) -> str:
    """The path of a config file.

    Args:
        name (str): name of the config, with or without ".yaml".

    Returns:
        str: absolute path, to be used with ``cfg.merge_from_file`` or ``--config-file``.

    Raises:
        ValueError: no config has that name; the message gives similar names.
    """
    full_name = name.removesuffix(SUFFIX) + SUFFIX
    names = _config_names()
    if full_name not in names:
        similar = difflib.get_close_matches(full_name, names, n=3, cutoff=0.5)
        hint = f"Similar names: {', '.join(similar)}. " if similar else ""
        raise ValueError(
            f"There is no config named '{name}'. {hint}"
            "anchor_heads.model_zoo.list_configs() returns all names."
        )
    return str(_layout.folder("configs") / full_name)


def get_config(name: str, overrides: Sequence = ()) -> CfgNode:
    """The config of a model, ready for ``DefaultPredictor`` or for changes.

    ``MODEL.DEVICE`` is "cpu" where no CUDA device is available.

    Args:
        name (str): name of the config, with or without ".yaml".
        overrides (Sequence): keys and values in turn, as on the command line:
            ``["MODEL.RETINANET.NUM_CLASSES", 3]``.

    Returns:
        CfgNode: Detectron2's and this package's keys.

    Raises:
        ValueError: no config has that name.
    """
    cfg = get_cfg()
    cfg.merge_from_file(get_config_file(name))
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_list(list(overrides))
    return cfg


def get(name: str, overrides: Sequence = ()) -> nn.Module:
    """Build a model from its config, in training mode and with weights as initialised.

    Weights are loaded with ``DetectionCheckpointer(model).load(path)``.

    Args:
        name (str): name of the config, with or without ".yaml".
        overrides (Sequence): as in :func:`get_config`.

    Returns:
        nn.Module: the model, on ``MODEL.DEVICE``.

    Raises:
        ValueError: no config has that name.
    """
    return build_model(get_config(name, overrides))


def _config_names() -> list[str]:
    configs = _layout.folder("configs")
    return sorted(path.relative_to(configs).as_posix() for path in configs.rglob(f"*{SUFFIX}"))
