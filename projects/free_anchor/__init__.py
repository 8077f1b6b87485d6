"""FreeAnchor: learning to match anchors (Zhang et al., NeurIPS 2019)."""

from .config import add_config
from .retinanet import FreeAnchorRetinaNet
from .rpn import FreeAnchorRPN
from .strategy import FreeAnchorLoss, FreeAnchorStrategy

__all__ = [
    "FreeAnchorLoss",
    "FreeAnchorRPN",
    "FreeAnchorRetinaNet",
    "FreeAnchorStrategy",
    "add_config",
]
