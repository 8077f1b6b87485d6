"""Dynamic Anchor: one predicted anchor per location (DA-RetinaNet)."""

from . import retinanet as _retinanet  # noqa: F401  only registration
from . import rpn as _rpn  # noqa: F401  only registration
from .config import add_config

__all__ = ["add_config"]
