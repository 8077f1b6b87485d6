"""Files that are complete or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO


@contextmanager
def open_and_rename(path: str, mode: str, **kwargs) -> Iterator[IO]:
    """Open a file for writing that gets its name when it is complete.

    Until then it is ``path`` with the suffix ".part", which is removed if writing fails.
    """
    part = f"{path}.part"
    try:
        with open(part, mode, **kwargs) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.remove(part)
        raise
