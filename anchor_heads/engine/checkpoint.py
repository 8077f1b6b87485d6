"""Checkpoints that are either complete or not there, fit the model, and run no code."""

import errno
import os
import socket
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from urllib.error import URLError
from urllib.parse import urlparse

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from anchor_heads._private import forget_refused_load
from anchor_heads.checkpoint.detectron2_loading import read_pickled_weights, read_weights
from anchor_heads.checkpoint.read import safe_reading
from anchor_heads.errors import shorten
from anchor_heads.files import open_and_rename

LAST_CHECKPOINT = "last_checkpoint"
STALLED_SECONDS = 60  # without a byte from the address of weights


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which also reads published weights of other frameworks.

    - The checkpoint, and ``last_checkpoint`` which names it, each take their place at once when
      they are complete, so a killed run always leaves a checkpoint that it can go on from.
    - No file that it loads runs code.
    - Weights that do not fit are an error, and leave the checkpointer as it was.
    """

    def __init__(self, model, save_dir="", *, tag=True, extra=None, **kwargs):
        """
        Args:
            model, save_dir, kwargs: see :class:`DetectionCheckpointer`.
            tag (bool): whether the checkpoints are to be resumed from: ``last_checkpoint`` names
                the last one that was saved.
            extra (dict or None): entries of every checkpoint besides the model and its trainer;
                the attribute of that name may be changed between two of them.
        """
        super().__init__(model, save_dir, **kwargs)
        self.path_manager = _AtomicWrites(self.path_manager)
        self._tag = tag
        self.extra = extra or {}
        self._complete = False

    def save(self, name, **kwargs):
        """Same as Detectron2's.

        Raises:
            OSError: if the disk is full; a file of that name stays as it was.
        """
        try:
            super().save(name, **self.extra, **kwargs)
        except (OSError, RuntimeError) as error:
            if not _is_of_full_disk(error):
                raise
            path = os.path.join(self.save_dir, f"{name}.pth")
            raise OSError(
                f"No space left on the disk to write {path}. Make room, then go on with --resume."
            ) from error

    def tag_last_checkpoint(self, last_filename_basename):
        if self._tag:
            super().tag_last_checkpoint(last_filename_basename)

    def load(self, path, checkpointables: Sequence[str] | None = None, complete: bool = False):
        """Same as Detectron2's, of ``.pth`` and ``.pkl`` files, addresses, and published files.

        Args:
            path (str): "" = load nothing.
            checkpointables (sequence[str] or None): what to load besides the model; None = all.
            complete (bool): whether it is an error if a parameter of the model stays as
                initialised.

        Raises:
            FileNotFoundError: if there is no such file on the main process, or an address cannot be
                reached.
            ValueError: if nothing in the file fits the model, or less than ``complete`` asks for,
                or the file is damaged or could run code.
            TimeoutError: if an address sends nothing for a minute.
        """
        file = urlparse(path)._replace(query="").geturl()
        is_local = file and "://" not in file
        if is_local and comm.is_main_process() and not os.path.isfile(file):
            raise FileNotFoundError(
                f"There is no file {os.path.abspath(file)} to load weights from. It is named by "
                f"MODEL.WEIGHTS, or with --resume by {LAST_CHECKPOINT} in OUTPUT_DIR."
            )
        self._complete = complete
        try:
            with _no_longer_than(STALLED_SECONDS, path):
                return super().load(path, checkpointables)
        except (AssertionError, RuntimeError) as error:
            # of fvcore, that there is no such local file; of Detectron2's catalog
            if isinstance(error, RuntimeError) and not path.startswith("catalog://"):
                raise
            raise FileNotFoundError(
                f"The weights {path} are not found, or at an address of a kind that is not known "
                "here. Download them, and name the file in MODEL.WEIGHTS."
            ) from error
        except URLError as error:
            raise FileNotFoundError(
                f"The weights {path} cannot be downloaded ({error.reason}). Download them "
                "elsewhere and name the file in MODEL.WEIGHTS, or start from random weights with "
                "MODEL.WEIGHTS ''."
            ) from None
        finally:
            forget_refused_load(self)

    def _load_file(self, filename):
        if filename.endswith(".pkl"):
            return read_pickled_weights(filename)
        if filename.endswith(".pyth"):  # of pycls
            with safe_reading(filename):
                return super()._load_file(filename)
        return super()._load_file(filename)

    def _torch_load(self, f):
        return read_weights(f, self.model)

    def _load_model(self, checkpoint):
        """Same as Detectron2's, which only warns when all of the model stays as initialised."""
        weights, file = checkpoint["model"], self._parsed_url_during_load.geturl()
        _check_weights(weights, file)
        found = list(weights)
        incompatible = super()._load_model(checkpoint)
        parameters = [name for name, _ in self.model.named_parameters()]
        missing = {
            *incompatible.missing_keys,
            *(name for name, *_ in incompatible.incorrect_shapes),
        }
        missing = [name for name in parameters if name in missing]
        if len(missing) == len(parameters):
            raise ValueError(
                f"Nothing in {file} fits the model in name and shape. The file has "
                f"{shorten(found, 3)}; the model has {shorten(parameters, 3)}. Are they weights of "
                "another model or framework?"
            )
        invalid = [name for name, x in self.model.named_parameters() if not x.isfinite().all()]
        if invalid:
            raise ValueError(
                f"{file} has weights that are infinite or not a number: {shorten(invalid, 3)}. The "
                "training that wrote it had failed by then: use an earlier checkpoint."
            )
        if missing and self._complete:
            raise ValueError(
                f"{file} lacks {len(missing)} of the model's {len(parameters)} parameters, or has "
                f"them in another shape: {shorten(missing, 3)}. They would stay as initialised. "
                "Are they weights of another model, or for another number of classes?"
            )
        return incompatible

    def load_to_evaluate(self, path: str, random_weights: bool = False) -> dict:
        """Load all of a model's weights.

        Args:
            path (str): as in :meth:`load`.
            random_weights (bool): whether weights may stay as initialised.

        Raises:
            ValueError: if some would, and ``random_weights`` is False.
        """
        if not (path or random_weights):
            raise ValueError(
                "There are no weights to evaluate: write MODEL.WEIGHTS model.pth (or, to evaluate "
                "a model as initialised, --random-weights)."
            )
        return self.load(path, complete=not random_weights)


def _check_weights(weights, file: str) -> None:
    is_dict = isinstance(weights, dict) and bool(weights)
    if not is_dict or not all(isinstance(key, str) and _is_array(x) for key, x in weights.items()):
        entries = shorten(list(weights), 5) if is_dict else f"a {type(weights).__name__}"
        entries = "no entries" if weights == {} else entries
        raise ValueError(f"{file} has no weights that are known here: it has {entries}.")


def _is_array(x) -> bool:
    if isinstance(x, torch.Tensor):
        has_values = x.layout is torch.strided and not x.is_meta
        return has_values and not (x.is_quantized or x.is_complex())
    return isinstance(x, np.ndarray) and x.dtype.kind in "fiub"


def checkpoint_to_resume(folder: str) -> str:
    """The path of the checkpoint that ``last_checkpoint`` names; "" if there is none at all.

    Args:
        folder (str): OUTPUT_DIR.

    Raises:
        ValueError: if it is not there or not whole. The message names the newest that is.
    """
    tag = os.path.join(folder, LAST_CHECKPOINT)
    if not os.path.isfile(tag):
        if newest_whole_checkpoint(folder):
            raise ValueError(
                f"{folder} has checkpoints, but no file {LAST_CHECKPOINT} that names the one to "
                f"resume from. {_how_to_go_on(folder)}"
            )
        return ""
    with open(tag, errors="replace") as file:
        name = file.read().strip()
    path = os.path.join(folder, name)
    if not name or os.path.basename(name) != name or not name.isprintable():
        problem = f"{tag} does not name a file: {name[:40]!r}"
    elif not os.path.isfile(path):
        problem = f"{tag} names {name}, which is not there"
    elif not zipfile.is_zipfile(path):
        problem = f"{path} is not whole ({os.path.getsize(path)} bytes)"
    else:
        return path
    raise ValueError(f"{problem}. {_how_to_go_on(folder)}")


def newest_whole_checkpoint(folder: str) -> str:
    """The path of the newest checkpoint of a training run in a folder; "" if there is none."""
    paths = [path for _, path in training_checkpoints(folder)]
    return max(paths, key=os.path.getmtime, default="")


def training_checkpoints(folder: str, run_id: str | None = None) -> list[tuple[int, str]]:
    """(iteration, path) of the checkpoints in a folder that are whole and can be resumed from.

    Args:
        folder (str): OUTPUT_DIR.
        run_id (str or None): that of :class:`TrainStep`, for those of one run; None = of any run.
    """
    found = []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        path = os.path.join(folder, name)
        if not (name.endswith(".pth") and zipfile.is_zipfile(path)):
            continue
        try:
            checkpoint = read_entries(path)
        except ValueError:
            continue
        state = checkpoint.get("trainer") if isinstance(checkpoint, dict) else None
        if not (isinstance(state, dict) and isinstance(state.get("iteration"), int)):
            continue
        step = state.get("_trainer")
        if run_id is None or (isinstance(step, dict) and step.get("run_id", "") == run_id):
            found.append((state["iteration"], path))
    return found


def read_entries(path: str) -> dict:
    """The entries of a checkpoint; tensors stay in the file until they are used.

    Raises:
        ValueError: if the file is damaged, or could run code.
    """
    with safe_reading(path):
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True)


def _how_to_go_on(folder: str) -> str:
    newest = newest_whole_checkpoint(folder)
    if not newest:
        return "There is no whole checkpoint to resume from: start anew with --force."
    return (
        f"The newest whole checkpoint is {newest}, which may be of an earlier run in this folder. "
        "To start anew, write --force instead of --resume. To resume from that checkpoint, write "
        f"its name into {LAST_CHECKPOINT}: echo {os.path.basename(newest)} > "
        f"{os.path.join(folder, LAST_CHECKPOINT)}"
    )


def _is_of_full_disk(error: BaseException | None) -> bool:
    """PyTorch hides a full disk in a RuntimeError, which it raises while it handles the first."""
    while error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__context__
    return False


@contextmanager
def _no_longer_than(seconds: float, path: str) -> Iterator[None]:
    """Limit how long an address may send nothing; local files are not concerned."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    except TimeoutError as error:
        raise TimeoutError(
            f"{path} sent nothing for {seconds} seconds. Download the file by other means, and "
            "name it in MODEL.WEIGHTS."
        ) from error
    finally:
        socket.setdefaulttimeout(before)


class _AtomicWrites:
    """A path manager whose files get their name when they are written completely."""

    def __init__(self, path_manager):
        self._path_manager = path_manager

    def __getattr__(self, name):
        return getattr(self._path_manager, name)

    def open(self, path, mode="r", **kwargs):
        is_local_write = "w" in mode and "://" not in path
        open_ = open_and_rename if is_local_write else self._path_manager.open
        return open_(path, mode, **kwargs)
