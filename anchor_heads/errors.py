"""Whose error an exception is: the user's, a library's, or a bug."""

import dis
import linecache
from types import TracebackType


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
    return opcode == dis.opmap["RAISE_VARARGS"] and _package(raised_at) == "anchor_heads"


def said_by_library(error: Exception) -> str:
    """What Detectron2 or PyTorch say of what they refuse, in one line; "" for other code's errors.

    Many of their assertions have no message: then it is the line that asserts.
    """
    raised_at = _raised_at(error)
    if _package(raised_at) not in ("detectron2", "fvcore", "torch"):
        return ""
    code = raised_at.tb_frame.f_code
    source = linecache.getline(code.co_filename, raised_at.tb_lineno).strip()
    return str(error).partition("\n")[0] or f"{code.co_qualname} has {source!r}"


def _raised_at(error: Exception) -> TracebackType:
    raised_at = error.__traceback__
    while raised_at.tb_next:
        raised_at = raised_at.tb_next
    return raised_at


def _package(raised_at: TracebackType) -> str:
    return raised_at.tb_frame.f_globals.get("__name__", "").partition(".")[0]
