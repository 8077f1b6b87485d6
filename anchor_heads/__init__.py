"""Learned anchor strategies for Detectron2: models that are picked in a config file."""

from anchor_heads._requirements import check_requirements

check_requirements()  # before anything below imports torch or Detectron2

from anchor_heads.config import get_cfg  # noqa: E402

__all__ = ["get_cfg"]
__version__ = "0.1.0"
