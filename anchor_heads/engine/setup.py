"""From command-line arguments to the config of a run."""

import difflib
import logging
import os
from argparse import Namespace

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, default_setup
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger

from anchor_heads import model_zoo
from anchor_heads.config import get_cfg
from anchor_heads.data.coco_format import register_coco_format

logger = logging.getLogger(__name__)


def setup(args: Namespace) -> CfgNode:
    """Make the config of a run, register its data sets, start its log.

    Args:
        args (Namespace): of Detectron2's ``default_argument_parser``.

    Returns:
        CfgNode: the frozen config.

    Raises:
        ValueError, FileNotFoundError: if there is no such config, or an override or the batch size
            does not fit; the message says what to write.
    """
    args.config_file = find_config(args.config_file)
    cfg = load_config(args)
    if not args.eval_only:
        check_batch_size(cfg, args, comm.get_world_size())
    register_coco_format(cfg)
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="anchor_heads")
    logger.info(f"Running on {cfg.MODEL.DEVICE}.")
    return cfg


def load_config(args: Namespace) -> CfgNode:
    """The config file with the overrides of the command line.

    MODEL.DEVICE becomes "cpu" where it says "cuda" and there is none.

    Args:
        args (Namespace): ``config_file`` (str), a path or the name of a shipped config, and
            ``opts`` (list[str]), keys and values in turn.

    Raises:
        ValueError, FileNotFoundError: if there is no such config or key.
    """
    cfg = _file_config(args)
    _check_overrides(cfg, args.opts)
    cfg.merge_from_list(args.opts)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def split_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split arguments into the paths before the first config key, and the overrides from there."""
    keys = get_cfg()
    is_path = [os.path.exists(x) or x.split(".")[0] not in keys for x in arguments]
    first_key = (is_path + [False]).index(False)
    return arguments[:first_key], arguments[first_key:]


def find_config(config_file: str) -> str:
    """The path of a config: a file as it is, or a shipped config by name."""
    if not config_file:
        raise ValueError(
            "--config-file is missing. Shipped configs: " + ", ".join(model_zoo.list_configs())
        )
    if PathManager.isfile(config_file):
        return config_file
    try:
        return model_zoo.get_config_file(config_file)
    except ValueError as error:
        raise FileNotFoundError(
            f"There is no config file {os.path.abspath(config_file)}. {error}"
        ) from None


def check_batch_size(cfg: CfgNode, args: Namespace, num_processes: int) -> None:
    """Check that the images of a batch can be divided among the processes.

    Args:
        cfg (CfgNode): the config with its overrides.
        args (Namespace): what the config was made from.
        num_processes (int): how many processes the run has.

    Raises:
        ValueError: if they cannot; the message has the overrides to write instead, scaled from the
            config file's own batch by Detectron2's rule.
    """
    batch_size, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
    divisor = reference or num_processes
    if batch_size > 0 and batch_size % divisor == 0:
        return
    meaning = (
        f"is for SOLVER.REFERENCE_WORLD_SIZE {reference} processes"
        if reference
        else f"is for the {num_processes} processes of this run"
    )
    raise ValueError(
        f"SOLVER.IMS_PER_BATCH {batch_size} {meaning} together, and {batch_size} images cannot be "
        f"divided among {divisor}. For this run with {num_processes} process(es), write instead: "
        + _scaled_overrides(cfg, args, num_processes)
    )


def _scaled_overrides(cfg: CfgNode, args: Namespace, num_processes: int) -> str:
    """Overrides for the wanted batch, or the next that can be divided among the processes."""
    wanted = max(cfg.SOLVER.IMS_PER_BATCH, 1)
    batch_size = -(-wanted // num_processes) * num_processes
    scaled = _file_config(args)
    scaled.SOLVER.REFERENCE_WORLD_SIZE = scaled.SOLVER.IMS_PER_BATCH  # one image per "worker"
    scaled = DefaultTrainer.auto_scale_workers(scaled, batch_size)
    overrides = {"REFERENCE_WORLD_SIZE": 0, "IMS_PER_BATCH": batch_size}
    for key in ("BASE_LR", "MAX_ITER", "STEPS", "WARMUP_ITERS"):
        source = cfg if f"SOLVER.{key}" in args.opts else scaled
        overrides[key] = source.SOLVER[key]
    overrides["BASE_LR"] = f"{overrides['BASE_LR']:.6g}"
    overrides["STEPS"] = f'"{overrides["STEPS"]}"'  # has parentheses, which shells take for theirs
    return " ".join(f"SOLVER.{key} {value}" for key, value in overrides.items())


def _file_config(args: Namespace) -> CfgNode:
    config_file = find_config(args.config_file)
    cfg = get_cfg()
    try:
        cfg.merge_from_file(config_file)
    except (AssertionError, KeyError) as error:
        raise ValueError(f"{config_file}: {error.args[0]}") from error
    return cfg


def _check_overrides(cfg: CfgNode, overrides: list[str]) -> None:
    if len(overrides) % 2:
        raise ValueError(f"Overrides are pairs of key and value, not {' '.join(overrides)}")
    keys = _keys(cfg)
    for key in overrides[::2]:
        if key not in keys:
            similar = difflib.get_close_matches(key, keys, n=3, cutoff=0.6)
            hint = f" Similar keys: {', '.join(similar)}." if similar else ""
            raise ValueError(f"There is no config key {key}.{hint}")


def _keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in cfg.items():
        keys.append(prefix + name)
        if isinstance(value, CfgNode):
            keys += _keys(value, f"{prefix}{name}.")
    return keys
