"""Messages of errors, and whose an error is: the user's, a library's, or a bug."""

import dis
import linecache
import sys
import traceback
from collections.abc import Sequence
from types import FrameType, TracebackType

LIBRARIES = {"detectron2", "fvcore", "timm", "torch", "torchvision"}


def first_line(error: Exception) -> str:
    """The first line of an error's message; the name of its type if it has none."""
    return str(error).strip().partition("\n")[0].strip() or type(error).__name__


def shorten(items: Sequence, limit: int = 10) -> str:
    """The first ``limit`` items for a message, as "a, b, ..."."""
    text = ", ".join(str(item) for item in items[:limit])
    return f"{text}, ..." if len(items) > limit else text


def is_user_error(error: Exception) -> bool:
    """Whether the message alone says what to do.

    It does if the error comes from the file system, or from a ``raise`` statement of this package.
    Any other error is a bug, here or in a library, and needs its traceback.
    """
    if isinstance(error, OSError):
        return True
    if isinstance(error, AssertionError):
        return False
    raised_at = _raised_at(error)
    opcode = raised_at.tb_frame.f_code.co_code[raised_at.tb_lasti]
    return opcode == dis.opmap["RAISE_VARARGS"] and _package(raised_at.tb_frame) == "anchor_heads"


def said_by_library(error: Exception) -> str:
    """What Detectron2, PyTorch or timm say of what they refuse, in one line; "" for other code.

    Many of their assertions have no message: then it is the line that asserts, if there is a file
    to read it from. If they are called by code of another package, the error may be a bug there,
    and needs its traceback.
    """
    raised_at = _raised_at(error)
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    packages = {_package(frame) for frame in frames} - sys.stdlib_module_names
    if _package(raised_at.tb_frame) not in LIBRARIES or packages - LIBRARIES - {"anchor_heads"}:
        return ""
    code = raised_at.tb_frame.f_code
    source = linecache.getline(code.co_filename, raised_at.tb_lineno).strip()
    return first_line(error) if str(error) or not source else f"{code.co_name} has {source!r}"


def _raised_at(error: Exception) -> TracebackType:
    raised_at = error.__traceback__
    while raised_at.tb_next:
        raised_at = raised_at.tb_next
    return raised_at


def _package(frame: FrameType) -> str:
    return frame.f_globals.get("__name__", "").partition(".")[0]
