"""Learned anchor strategies for Detectron2: models that are picked in a config file."""

__all__ = ["get_cfg"]
__version__ = "0.1.0"


def __getattr__(name: str):
    # Imported at first use, since it imports torch and every method, and the help of a command
    # needs neither.
    if name == "get_cfg":
        from anchor_heads.config import get_cfg

        return get_cfg
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
