"""Training and evaluation of a config, on one process or many."""

from anchor_heads.engine.launch import launch
from anchor_heads.engine.setup import load_config, setup, split_overrides
from anchor_heads.engine.trainer import Trainer

__all__ = ["Trainer", "launch", "load_config", "setup", "split_overrides"]
