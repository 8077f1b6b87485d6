"""Loads published weights of other frameworks; README.md lists their differences."""

from anchor_heads.checkpoint.convert import Converted, Mismatch, compare, convert, recognize
from anchor_heads.checkpoint.formats import Format
from anchor_heads.checkpoint.read import Checkpoint, read_checkpoint

__all__ = [
    "Checkpoint",
    "Converted",
    "Format",
    "Mismatch",
    "compare",
    "convert",
    "read_checkpoint",
    "recognize",
]
