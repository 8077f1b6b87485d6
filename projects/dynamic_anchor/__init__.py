"""Dynamic Anchor: one predicted anchor per location (DA-RetinaNet)."""

from .config import add_config
from .head import DynamicAnchorRetinaNetHead, DynamicAnchorRPNHead
from .retinanet import DynamicAnchorRetinaNet
from .rpn import DynamicAnchorRPN
from .strategy import DynamicAnchoring, DynamicAnchorStrategy

__all__ = [
    "DynamicAnchorRPN",
    "DynamicAnchorRPNHead",
    "DynamicAnchorRetinaNet",
    "DynamicAnchorRetinaNetHead",
    "DynamicAnchorStrategy",
    "DynamicAnchoring",
    "add_config",
]
