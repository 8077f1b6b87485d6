"""How a command ends: with its own exit code, or with one line that says what the user can do."""

import os
import sys
import warnings
from collections.abc import Callable

from anchor_heads.errors import is_user_error

USER_ERROR, INTERRUPTED = 2, 130
# Of torch and Detectron2 about their own code, of matplotlib about characters without a glyph.
WARNINGS = (
    ("", DeprecationWarning),
    ("`torch.jit.script`", FutureWarning),
    ("Glyph", UserWarning),
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
