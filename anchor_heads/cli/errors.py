"""How a command ends: with its own exit code, or with one line that says what the user can do."""

import dis
import linecache
import os
import sys
import warnings
from collections.abc import Callable
from types import TracebackType

USER_ERROR, INTERRUPTED = 2, 130
# Of torch and Detectron2 about their own code.
WARNINGS = (
    ("", DeprecationWarning),
    ("`torch.jit.script`", FutureWarning),
    ("torch.meshgrid", UserWarning),
    ("pkg_resources", UserWarning),
)


def silence_warnings() -> None:
    """Hide warnings that users cannot act on, in this process and those that it starts.

    ``python -W`` and PYTHONWARNINGS go before.
    """
    if not sys.warnoptions:
        for message, category in WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        options = [f"ignore:{message}:{category.__name__}" for message, category in WARNINGS]
        os.environ["PYTHONWARNINGS"] = ",".join(options)


def run_command(name: str, command: Callable[..., int | None], *args) -> int:
    """Run ``command(*args)`` and turn user errors into one line on stderr.

    Args:
        name (str): what the line starts with, such as "anchor-heads predict".
        command (callable): returns its exit code, or None for 0.
        *args: its arguments.

    Returns:
        int: the exit code: that of the command, 2 after a user error, 130 after Ctrl-C.

    Raises:
        Exception: any error that is not the user's, see :func:`is_user_error`.
    """
    try:
        return command(*args) or 0
    except KeyboardInterrupt:
        print(f"\n{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if not is_user_error(error):
            raise
        print(f"{name}: error: {error}", file=sys.stderr)
        return USER_ERROR


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
