"""Guided Anchoring: region proposal by guided anchoring (Wang et al., CVPR 2019)."""

from . import retinanet as _retinanet  # noqa: F401  only registration
from . import rpn as _rpn  # noqa: F401  only registration
from .config import add_config

__all__ = ["add_config"]
