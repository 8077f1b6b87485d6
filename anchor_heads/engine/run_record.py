"""What a run's folder says about how it was made."""

import datetime
import hashlib
import json
import logging
import os
import platform
import shlex
import subprocess
import sys
from argparse import Namespace

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from torch import nn

import anchor_heads
from anchor_heads import _layout
from anchor_heads.files import open_and_rename

logger = logging.getLogger(__name__)

RECORD, ENVIRONMENT = "run.json", "environment.txt"


def write_run_record(cfg: CfgNode, args: Namespace) -> None:
    """Write run.json and environment.txt into OUTPUT_DIR; config.yaml is Detectron2's.

    run.json has an entry for each start of the run, and each evaluation in its folder: the command,
    versions, the commit of the package where it is a checkout, and a digest of each annotation
    file.
    """
    path = os.path.join(cfg.OUTPUT_DIR, RECORD)
    starts = []
    if (args.resume or args.eval_only) and os.path.isfile(path):
        with open(path) as file:
            starts = json.load(file)
    with open_and_rename(path, "w") as file:
        json.dump([*starts, _this_start(cfg, args)], file, indent=1)
    with open(os.path.join(cfg.OUTPUT_DIR, ENVIRONMENT), "w") as file:
        file.write(collect_env_info() + "\n")


def write_model(model: nn.Module, output_dir: str) -> None:
    """Write the modules of a model into model.txt, and log their number of parameters."""
    if not comm.is_main_process():
        return
    os.makedirs(output_dir, exist_ok=True)
    path = os.path.join(output_dir, "model.txt")
    with open(path, "w") as file:
        file.write(f"{model}\n")
    count = sum(parameter.numel() for parameter in model.parameters())
    logger.info(f"{type(model).__name__} with {count:,} parameters; its modules are in {path}.")


def _this_start(cfg: CfgNode, args: Namespace) -> dict:
    return {
        "command": shlex.join(sys.argv),
        "config_file": os.path.abspath(args.config_file),
        "overrides": [str(x) for x in args.opts],
        "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "processes": comm.get_world_size(),
        "threads": torch.get_num_threads(),
        "anchor_heads": anchor_heads.__version__,
        "commit": _commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "data_sets": {name: _digest(name) for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)},
    }


def _commit() -> str:
    """The commit of a checkout, with "-dirty" after it where files were changed; else ""."""
    if not (_layout.PACKAGE.parent / ".git").exists():
        return ""
    git = ["git", "-C", str(_layout.PACKAGE.parent), "describe", "--always", "--abbrev=40"]
    try:
        found = subprocess.run([*git, "--dirty"], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip()


def _digest(dataset_name: str) -> str:
    """SHA-256 of the annotation file; "" if the data set has none."""
    json_file = MetadataCatalog.get(dataset_name).get("json_file", "")
    if not os.path.isfile(json_file):
        return ""
    with open(json_file, "rb") as file:
        digest = hashlib.sha256()
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
