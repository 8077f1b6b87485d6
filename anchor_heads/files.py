"""Atomic writing of files."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO


@contextmanager
def open_and_rename(path: str | os.PathLike, mode: str, **kwargs) -> Iterator[IO]:
    """Open a file for writing and rename it to ``path`` once it is complete.

    Until then its name has the suffix ".part"; it is removed if writing fails.
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
