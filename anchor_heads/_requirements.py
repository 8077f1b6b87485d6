"""What has to be there before the package can be imported, and how to install it.

Nothing but the standard library is imported here, so that ``setup.py`` can read the versions.
"""

import importlib
import re
import sys
from operator import attrgetter

# The oldest torch with what every model uses, the newest being compiler.is_exporting. Some formats
# of anchor_heads.export need a newer one.
MIN_TORCH = "2.7"
# What the package is developed and tested with, as in the requirements files.
TORCH = "torch==2.14.1 torchvision==0.29.1"
DETECTRON2 = (
    "detectron2 @ git+https://github.com/facebookresearch/detectron2"
    "@02b5c4e295e990042a714712c21dc79b731e8833"
)
# Arguments of pip. Detectron2's build imports the installed torch, and a build from pip's cache may
# be for another one.
INSTALL_TORCH = (f"install {TORCH}",)
INSTALL_DETECTRON2 = (
    "install 'setuptools<81' wheel ninja",
    f"install --no-build-isolation --no-cache-dir '{DETECTRON2}'",
)
# Detectron2 has called itself 0.6 since 2021, so pip takes an old one for the new one.
REPLACE_DETECTRON2 = ("uninstall --yes detectron2", *INSTALL_DETECTRON2)
# So its age is read off the newest of its parts that the package builds on.
DETECTRON2_PART = ("detectron2.engine", "TrainerBase.after_backward")


def check_requirements() -> None:
    """Check that torch and Detectron2 can be imported and are new enough.

    Raises:
        ImportError: one of them is missing or too old. The message says what was found, what is
            needed and the command that installs it.
    """
    check_torch()
    check_detectron2()


def check_torch() -> None:
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"anchor_heads needs torch >= {MIN_TORCH}, found none. {_how_to(*INSTALL_TORCH)}"
        ) from None
    if is_older(torch.__version__, MIN_TORCH):
        raise ImportError(
            f"anchor_heads needs torch >= {MIN_TORCH}, found torch {torch.__version__} in "
            f"{torch.__file__}. {_how_to(*INSTALL_TORCH, *REPLACE_DETECTRON2)}"
        )


def check_detectron2() -> None:
    try:
        import detectron2
    except ModuleNotFoundError as error:
        if error.name != "detectron2":
            raise
        raise ImportError(
            f"anchor_heads needs Detectron2, found none. {_how_to(*INSTALL_DETECTRON2)}"
        ) from None
    module, attribute = DETECTRON2_PART
    try:
        attrgetter(attribute)(importlib.import_module(module))
    except (AttributeError, ImportError) as error:
        # A dependency of Detectron2 that is not installed speaks for itself.
        if isinstance(error, ModuleNotFoundError) and not error.name.startswith("detectron2"):
            raise
        version = getattr(detectron2, "__version__", "unknown")
        raise ImportError(
            f"anchor_heads needs a newer Detectron2, found version {version} in "
            f"{detectron2.__path__[0]}, which fails with: {error}. {_how_to(*REPLACE_DETECTRON2)}"
        ) from error


def is_older(version: str, other: str) -> bool:
    """Whether a version such as "2.14.1+cu130" is older, by its first two numbers."""
    return _numbers(version) < _numbers(other)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def _how_to(*pip_arguments: str) -> str:
    commands = [f"  {sys.executable} -m pip {arguments}" for arguments in pip_arguments]
    return "\n".join(["Install it with", *commands])
