"""Reads checkpoints of any framework without executing code from them."""

import datetime
import os
import pathlib
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from anchor_heads.checkpoint import safe_pickle
from anchor_heads.errors import first_line, shorten

# Entries of a checkpoint that contain the weights.
ENTRIES = ("state_dict", "model")

# Classes and functions that a file may contain besides those that PyTorch allows. Training states
# contain numpy numbers, such as learning rates; metadata contain times and paths.
ALLOWED = [
    datetime.datetime,
    datetime.timedelta,
    pathlib.PosixPath,
    pathlib.WindowsPath,
    *(type(np.dtype(kind)) for kind in ("bool", "uint8", "int32", "int64")),
    *(type(np.dtype(kind)) for kind in ("float16", "float32", "float64")),
    *((x, ".".join(name)) for name, x in safe_pickle.ALLOWED.items() if "numpy" in name[0]),
]
_GIT_LFS = b"version https://git-lfs"
# Found in configs of mmdetection since 2.0.
MMDET_V2_CONFIG = re.compile(r"\b(approx_anchor_generator|anchor_generator|bbox_coder|roi_head)\b")


class Checkpoint(NamedTuple):
    """The weights of a file, and its metadata."""

    weights: dict[str, Tensor]
    version: str = ""
    """Of mmdetection; "" = unknown."""
    stride_in_1x1: bool | None = None
    """Where the bottlenecks of a ResNet have their stride; None = unknown."""


@contextmanager
def safe_reading(file: str) -> Iterator[None]:
    """Context in which ``torch.load`` accepts :data:`ALLOWED` and has clear errors.

    Raises:
        ValueError: the file is damaged, is no checkpoint, or contains another class.
    """
    try:
        with torch.serialization.safe_globals(ALLOWED):
            yield
    except (FileNotFoundError, IsADirectoryError, PermissionError, MemoryError):
        raise
    except Exception as error:  # a damaged file can make torch.load raise anything, OSError too
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            raise ValueError(
                f"{file} asks for {refused[1]}, which is neither part of a tensor nor among what "
                "anchor_heads/checkpoint/read.py allows. Loading it could run code, so nothing "
                "was loaded. If you trust the file, save only its weights, where its framework is "
                'installed: torch.save({"state_dict": torch.load(FILE, '
                'weights_only=False)["state_dict"]}, NEW_FILE).'
            ) from None
        raise ValueError(f"{file} is {_what_it_is(file, error)}.") from error


def _what_it_is(file: str, error: Exception) -> str:
    """What a file is that could not be read; PyTorch's own messages are of several lines."""
    if os.path.isfile(file):
        with open(file, "rb") as content:
            start = content.read(len(_GIT_LFS))
        if not start:
            return "empty"
        if start == _GIT_LFS:
            return "a pointer of Git LFS in place of the file: get it with git lfs pull"
    reason = first_line(error) if zipfile.is_zipfile(file) else ""
    reason = reason.partition(". In PyTorch")[0]  # which advises to let it run code
    return f"not complete, or is not a PyTorch checkpoint{reason and f' ({reason})'}"


def read_checkpoint(file: str) -> Checkpoint:
    """Read the weights of a file.

    Args:
        file (str): path of a PyTorch file.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it is damaged or has no weights.
    """
    with safe_reading(file):
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    checkpoint = find_weights(loaded)
    if checkpoint is None:
        found = f"entries {shorten(list(loaded))}" if isinstance(loaded, dict) else type(loaded)
        raise ValueError(f"{file} has no weights, only {found}.")
    return checkpoint


def find_weights(loaded) -> Checkpoint | None:
    """Find the weights in a loaded file, and remove the prefix "module." of parallel training.

    Returns:
        Checkpoint | None: None if there are none.
    """
    if not isinstance(loaded, dict):
        return None
    weights = next((loaded[entry] for entry in ENTRIES if entry in loaded), loaded)
    is_weights = isinstance(weights, dict) and all(
        isinstance(key, str) and isinstance(x, Tensor) for key, x in weights.items()
    )
    if not is_weights or not weights:
        return None
    if all(key.startswith("module.") for key in weights):
        weights = {key.removeprefix("module."): x for key, x in weights.items()}
    meta = loaded.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    config = str(meta.get("config"))
    # Some files of 2.x were trained before its release and have a version of 1.x.
    version = "2" if MMDET_V2_CONFIG.search(config) else str(meta.get("mmdet_version", ""))
    return Checkpoint(weights, version, _stride(config))


def _stride(config: str) -> bool | None:
    """From mmdetection's config: style "caffe" has the stride in the 1x1 convolution."""
    styles = set(re.findall(r"style\W+(caffe|pytorch)", config))
    return styles == {"caffe"} if len(styles) == 1 else None
