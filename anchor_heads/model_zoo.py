"""The configs by name, from a checkout as well as from an installed wheel.

A name is a config's path below ``configs/``, such as "free_anchor/free_anchor_R_50_FPN_1x.yaml".
"""

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from anchor_heads.config import get_cfg
from anchor_heads.config_files import get_config_file, list_configs

__all__ = ["get", "get_config", "get_config_file", "list_configs"]


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
