"""From command-line arguments to the config of a run."""

import argparse
import difflib
import logging
import os
from argparse import Namespace
from contextlib import contextmanager
from operator import attrgetter

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, default_argument_parser, default_setup
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from anchor_heads import model_zoo
from anchor_heads.config import get_cfg
from anchor_heads.config_files import find_config, leaves
from anchor_heads.data.class_names import note_classes
from anchor_heads.data.coco_format import register_coco_format
from anchor_heads.engine.config_values import check_config_values
from anchor_heads.engine.run_folder import other_run_kept
from anchor_heads.engine.run_record import write_run_record
from anchor_heads.engine.trackers import check_trackers

logger = logging.getLogger(__name__)


def argument_parser(epilog: str = "") -> argparse.ArgumentParser:
    """Detectron2's ``default_argument_parser`` with the options of this package."""
    parser = default_argument_parser(epilog=epilog or None)
    parser.set_defaults(dist_url="auto")
    parser.add_argument(
        "--force",
        action="store_true",
        help="train into a folder that has another run's checkpoints",
    )
    parser.add_argument(
        "--random-weights",
        action="store_true",
        help="with --eval-only: evaluate although weights are as initialised",
    )
    parser.add_argument(
        "--dist-timeout",
        type=float,
        default=30,
        metavar="MINUTES",
        help="how long to wait for the processes of other machines (default: 30)",
    )
    return parser


def setup(args: Namespace) -> CfgNode:
    """Make the config of a run, start its log, register its data sets, record what it runs.

    Args:
        args (Namespace): of :func:`argument_parser` or Detectron2's ``default_argument_parser``.

    Returns:
        CfgNode: the frozen config.

    Raises:
        ValueError, FileNotFoundError: if there is no such config, or an override or the batch size
            does not fit; the message says what to write.
        FileExistsError: if OUTPUT_DIR has the checkpoints of another run.
    """
    cfg = load_config(args)
    args.config_file = find_config(args.config_file)
    if not args.eval_only:
        check_batch_size(cfg, args, comm.get_world_size())
        check_trackers(cfg)
    with other_run_kept(cfg.OUTPUT_DIR, args):
        # As default_setup does it below, so that nothing is logged twice, but before data are read.
        rank = comm.get_rank()
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="fvcore")
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank)
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name="anchor_heads")
        register_coco_format(cfg)
        if not args.eval_only:
            note_classes(cfg)
        cfg.freeze()
        with _only_warnings():
            default_setup(cfg, args)  # logs the environment, the config file and the whole config
            if comm.is_main_process():
                write_run_record(cfg, args)
    files = (  # config.yaml may be that of a training
        "Command and versions are in run.json"
        if args.eval_only
        else "Config, command and versions are in config.yaml and run.json"
    )
    logger.info(
        f"Running on {cfg.MODEL.DEVICE}, {comm.get_world_size()} process(es). {files} of "
        f"{os.path.abspath(cfg.OUTPUT_DIR)}."
    )
    return cfg


def load_config(args: Namespace) -> CfgNode:
    """The config file with the overrides of the command line.

    MODEL.DEVICE becomes "cpu" where the config says "cuda" and there is none.

    Args:
        args (Namespace): ``config_file`` (str), a path or the name of a shipped config, and
            ``opts`` (list[str]), keys and values in turn.

    Raises:
        ValueError, FileNotFoundError: if there is no such config or key, or a value is impossible
            or not of the key's type, or MODEL.DEVICE is overridden with a device that there is not.
    """
    cfg = merge_config(args)
    check_config_values(cfg)
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        if "MODEL.DEVICE" in args.opts[::2]:
            raise ValueError(
                f"MODEL.DEVICE is {cfg.MODEL.DEVICE}, but PyTorch finds no GPU. Write MODEL.DEVICE "
                "cpu to run without one."
            )
        cfg.MODEL.DEVICE = "cpu"
    return cfg


def merge_config(args: Namespace) -> CfgNode:
    """The config as written, for whatever device."""
    cfg = _file_config(args)
    _check_overrides(cfg, args.opts)
    for key, value in zip(args.opts[::2], args.opts[1::2], strict=True):
        try:
            cfg.merge_from_list([key, value])
        except (AssertionError, KeyError, ValueError, SyntaxError):
            known = attrgetter(key)(cfg)
            if isinstance(known, str):  # such as a folder named 20261127, which is read as a number
                cfg.merge_from_list([key, repr(str(value))])
                continue
            raise ValueError(
                f"{key} {value}: a value of this key is of the type {type(known).__name__}, such "
                f"as {known!r}."
            ) from None
    return cfg


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
        _check_parts(cfg, batch_size // divisor)
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


def _check_parts(cfg: CfgNode, images_per_process: int) -> None:
    parts = cfg.SOLVER.GRADIENT_ACCUMULATION
    if images_per_process % parts:
        raise ValueError(
            f"SOLVER.GRADIENT_ACCUMULATION is {parts}, and the {images_per_process} image(s) that "
            "each process has of a batch cannot be divided into that many parts."
        )


def _scaled_overrides(cfg: CfgNode, args: Namespace, num_processes: int) -> str:
    """Overrides for the requested batch size, or the next that all processes can share equally."""
    requested = max(cfg.SOLVER.IMS_PER_BATCH, 1)
    batch_size = -(-requested // num_processes) * num_processes
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
    if not args.config_file:
        raise ValueError(
            "--config-file is missing. Shipped configs: " + ", ".join(model_zoo.list_configs())
        )
    config_file = find_config(args.config_file)
    cfg = get_cfg()
    cfg.merge_from_file(config_file)
    return cfg


def _check_overrides(cfg: CfgNode, overrides: list[str]) -> None:
    overrides = [str(x) for x in overrides]
    keys = [key for key, _ in leaves(cfg)]
    for i in range(0, len(overrides), 2):
        key = overrides[i]
        if key.startswith("--"):
            raise ValueError(f"{key} stands behind config keys: write options before them.")
        if "=" in key and key.split("=")[0] in keys:
            raise ValueError(f"Overrides are KEY VALUE, not {key}: {key.replace('=', ' ', 1)}")
        if group := [x for x in keys if x.startswith(f"{key}.")]:
            raise ValueError(f"{key} is a group of keys, such as {group[0]}.")
        if key not in keys:
            similar = difflib.get_close_matches(key, keys, n=3, cutoff=0.6)
            hint = f" Similar keys: {', '.join(similar)}." if similar else ""
            raise ValueError(f"There is no config key {key}.{hint}")
        if i + 1 == len(overrides) or (overrides[i + 1] in keys and len(overrides) % 2):
            raise ValueError(f"Overrides are pairs of key and value, and {key} has no value.")


@contextmanager
def _only_warnings():
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
