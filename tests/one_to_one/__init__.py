"""A fourth method, as one could be added: each object is assigned to the anchor that overlaps it
most."""

from .retinanet import OneToOneRetinaNet
from .rpn import OneToOneRPN

__all__ = ["OneToOneRPN", "OneToOneRetinaNet"]
