"""Where the package's folders ``configs`` and ``projects`` lie.

A wheel carries them inside the package; in a checkout they lie beside it.
"""

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def folder(name: str) -> Path:
    """The folder ``configs`` or ``projects``, in the installed package or in the checkout.

    Beside an installed package nothing is looked for: a folder of that name there is another's.
    """
    installed = (PACKAGE / "configs").is_dir()
    return (PACKAGE if installed else PACKAGE.parent) / name
