"""Guided Anchoring: region proposal by guided anchoring (Wang et al., CVPR 2019)."""

from .config import add_config
from .head import GuidedAnchorRetinaNetHead, GuidedAnchorRPNHead
from .retinanet import GuidedAnchorRetinaNet
from .rpn import GuidedAnchorRPN
from .strategy import GuidedAnchoring, GuidedAnchorStrategy

__all__ = [
    "GuidedAnchorRPN",
    "GuidedAnchorRPNHead",
    "GuidedAnchorRetinaNet",
    "GuidedAnchorRetinaNetHead",
    "GuidedAnchorStrategy",
    "GuidedAnchoring",
    "add_config",
]
