"""Checkpoints that are either complete or not there, and that fit the model."""

import os
from urllib.parse import urlparse

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm

from anchor_heads.checkpoint.files import open_and_rename
from anchor_heads.data.coco_json import shorten


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, safe against a run that is killed while it writes.

    The checkpoint, and ``last_checkpoint`` which names it, each take their place at once when they
    are complete, so a killed run always leaves a checkpoint that it can go on from.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.path_manager = _AtomicWrites(self.path_manager)

    def load(self, path, *args, **kwargs):
        """Same as Detectron2's.

        Raises:
            FileNotFoundError: if there is no such file on the main process.
            ValueError: if nothing in the file fits the model.
        """
        file = urlparse(path)._replace(query="").geturl()
        is_local = file and "://" not in file
        if is_local and comm.is_main_process() and not os.path.isfile(file):
            raise FileNotFoundError(
                f"There is no file {os.path.abspath(file)} to load weights from. It is named by "
                "MODEL.WEIGHTS, or with --resume by last_checkpoint in OUTPUT_DIR."
            )
        return super().load(path, *args, **kwargs)

    def _load_model(self, checkpoint):
        """Same as Detectron2's, which only warns when all of the model stays as initialised."""
        found = list(checkpoint["model"])
        incompatible = super()._load_model(checkpoint)
        wanted = [name for name, _ in self.model.named_parameters()]
        if set(wanted) <= set(incompatible.missing_keys):
            raise ValueError(
                f"Nothing in {self._parsed_url_during_load.geturl()} fits the model in name and "
                f"shape. The file has {shorten(found, 3)}; the model has {shorten(wanted, 3)}. "
                "Are they weights of another model or framework?"
            )
        return incompatible


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
