"""The folder of a run, which may have the files of another one."""

import itertools
import logging
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from detectron2.utils import comm

from anchor_heads.engine.checkpoint import LAST_CHECKPOINT
from anchor_heads.engine.run_record import ENVIRONMENT
from anchor_heads.files import open_and_rename

logger = logging.getLogger(__name__)


@contextmanager
def other_run_kept(folder: str, args: Namespace) -> Iterator[None]:
    """Context of what writes the first files of a run, in every process.

    A training that starts anew in the folder of another run, with ``--force``, moves what that one
    has measured into a folder "earlier_run_N": so metrics are of one run, and ``--resume`` does not
    go back to the other. Checkpoints stay. An evaluation in the folder of a training leaves the
    files of the training as they are.

    Args:
        folder (str): OUTPUT_DIR.
        args (Namespace): of the command line.

    Raises:
        FileExistsError: if a training starts anew, and there are checkpoints in the folder, without
            ``--force``.
    """
    starts_anew = not (args.eval_only or args.resume)
    checkpoints = sorted(Path(folder).glob("*.pth"))
    if checkpoints and starts_anew and not vars(args).get("force"):
        raise FileExistsError(
            f"OUTPUT_DIR {folder} has the checkpoints of another run, such as {checkpoints[0]}: "
            "name another folder, go on with that run with --resume, or overwrite it with --force."
        )
    kept = {}
    if checkpoints and args.eval_only and comm.is_main_process():
        paths = [Path(folder, name) for name in ("config.yaml", ENVIRONMENT)]
        kept = {path: path.read_bytes() for path in paths if path.is_file()}
    try:
        yield
    finally:
        for path, content in kept.items():
            with open_and_rename(path, "wb") as file:
                file.write(content)
    if starts_anew and comm.is_main_process():
        _set_aside(folder)


def _set_aside(folder: str) -> None:
    names = (LAST_CHECKPOINT, "metrics.json", "events.out.tfevents.*")
    files = [file for name in names for file in Path(folder).glob(name)]
    if files:
        numbers = (Path(folder, f"earlier_run_{i}") for i in itertools.count(1))
        aside = next(path for path in numbers if not path.exists())
        aside.mkdir()
        for file in files:
            file.rename(aside / file.name)
        logger.info(f"The metrics of the earlier run in {folder} are now in {aside}.")
