"""A config with its training data and its anchors: what is diagnosed."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn

from anchor_heads.analysis.diagnosis.preset_anchors import PresetAnchors
from anchor_heads.analysis.diagnosis.training_data import TrainingData, read_training_data
from anchor_heads.analysis.model_analysis import build_random_model
from anchor_heads.anchor_generation.strategy import AnchorStrategy, Coverage, get_anchor_strategy


@dataclass(frozen=True)
class DiagnosisInput:
    """A config and its training data."""

    cfg: CfgNode
    data: TrainingData
    model: nn.Module | None
    """With random weights; None if it cannot be built."""
    build_error: str = ""
    """Why not."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "DiagnosisInput":
        """
        Raises:
            ValueError, FileNotFoundError: see :func:`read_training_data`.
        """
        return cls(cfg, read_training_data(cfg), *build(cfg))

    def with_changes(self, changes: Mapping[str, object]) -> "DiagnosisInput":
        """The same data with other values of some config keys."""
        cfg = self.cfg.clone()
        cfg.defrost()
        for item in changes.items():
            cfg.merge_from_list(item)
        return DiagnosisInput(cfg, self.data, *build(cfg))

    @cached_property
    def strategy(self) -> AnchorStrategy | None:
        """None for a model without anchors of its own."""
        try:
            return self.model and get_anchor_strategy(self.model)
        except TypeError:
            return None

    @cached_property
    def anchors(self) -> PresetAnchors | None:
        """None for a model whose anchors are not made of sizes and aspect ratios above 0."""
        if not self.strategy or self.cfg.MODEL.ANCHOR_GENERATOR.NAME != "DefaultAnchorGenerator":
            return None
        anchors = PresetAnchors.from_config(self.cfg, self.strategy)
        return anchors if min(map(min, (*anchors.sizes, *anchors.aspect_ratios))) > 0 else None

    @cached_property
    def coverage(self) -> Coverage:
        """Which of all objects the anchors reach. Only with ``anchors``."""
        return self.anchors.coverage(self.data.objects)

    @property
    def one_stage(self) -> bool:
        """Whether the model is a dense detector."""
        return issubclass(META_ARCH_REGISTRY.get(self.cfg.MODEL.META_ARCHITECTURE), DenseDetector)

    def get(self, key: str):
        """The value of a config key such as "SOLVER.BASE_LR"."""
        return attrgetter(key)(self.cfg)


def build(cfg: CfgNode) -> tuple[nn.Module | None, str]:
    """The model with random weights, or why it cannot be built."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    try:
        return build_random_model(cfg), ""
    except Exception as error:  # whatever it is, training would end with it
        return None, str(error) or type(error).__name__
