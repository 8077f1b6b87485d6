"""Training and evaluation of a config, on one process or many."""

from anchor_heads.engine.launch import launch
from anchor_heads.engine.setup import argument_parser, load_config, setup
from anchor_heads.engine.trainer import Trainer, train_or_evaluate

__all__ = [
    "Trainer",
    "argument_parser",
    "launch",
    "load_config",
    "setup",
    "train_or_evaluate",
]
