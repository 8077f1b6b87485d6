"""What a finding is, and what it looks at."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from torch import nn

from anchor_heads.analysis.diagnosis.preset_anchors import PresetAnchors
from anchor_heads.analysis.diagnosis.training_data import TrainingData, read_training_data
from anchor_heads.analysis.model_analysis import build_random_model
from anchor_heads.anchor_generation.strategy import (
    AnchorStrategy,
    Coverage,
    get_anchor_strategy,
)

# Severities. An error spoils the training, a warning costs accuracy, a note is worth knowing.
ERROR, WARNING, NOTE = "error", "warning", "note"

ANCHOR_GENERATOR = "MODEL.ANCHOR_GENERATOR"
SIZES, ASPECT_RATIOS = f"{ANCHOR_GENERATOR}.SIZES", f"{ANCHOR_GENERATOR}.ASPECT_RATIOS"

# A smaller share of objects or images is not worth a line; from the second on it is a warning.
LEAST_SHARE = 0.01
WARNING_SHARE = 0.05


class Suggestion(NamedTuple):
    """What to write instead."""

    changes: Mapping[str, object]
    """Values of config keys; None where a key should change, but no value could be computed."""
    effect: str = ""
    """What was counted with these values, a sentence; or nothing."""


@dataclass(frozen=True)
class Finding:
    """Something that will hurt."""

    severity: str
    sentence: str
    """What it is and what it means, with the numbers."""
    numbers: Mapping[str, float]
    """The numbers by name: "count" and "total" where something is counted."""
    suggestion: Suggestion = field(default_factory=lambda: Suggestion({}))


@dataclass(frozen=True)
class DiagnosisInput:
    """A config and its training data: what every finding is made from."""

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
        if (
            self.strategy is None
            or self.get(f"{ANCHOR_GENERATOR}.NAME") != "DefaultAnchorGenerator"
        ):
            return None
        anchors = PresetAnchors.from_config(self.cfg, self.strategy)
        shapes = (*anchors.sizes, *anchors.aspect_ratios)
        return anchors if min(map(min, shapes)) > 0 else None

    @cached_property
    def coverage(self) -> Coverage:
        """Which of all objects the anchors reach. Only with ``anchors``."""
        return self.anchors.coverage(self.data.objects)

    @property
    def one_stage(self) -> bool:
        """Whether the model is a dense detector."""
        return issubclass(self._architecture, DenseDetector)

    @property
    def detects(self) -> bool:
        """Whether it finds objects of classes, not proposals alone."""
        return self.one_stage or issubclass(self._architecture, GeneralizedRCNN)

    @property
    def _architecture(self) -> type:
        return META_ARCH_REGISTRY.get(self.cfg.MODEL.META_ARCHITECTURE)

    def get(self, key: str):
        """The value of a config key such as "SOLVER.BASE_LR"."""
        return functools.reduce(getattr, key.split("."), self.cfg)

    @property
    def node(self) -> str:
        """The config node of the part that has the anchors."""
        return "MODEL.RETINANET" if self.one_stage else "MODEL.RPN"


def build(cfg: CfgNode) -> tuple[nn.Module | None, str]:
    """The model, or why it cannot be built."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    try:
        return build_random_model(cfg), ""
    except Exception as error:  # whatever it is, training would end with it
        return None, str(error) or type(error).__name__


def of(count: int, total: int, what: str) -> str:
    """For example "12 of 480 objects (2.5 %)"."""
    return f"{count} of {total} {what} ({100 * count / max(1, total):.1f} %)"


def by_share(
    count: int,
    total: int,
    what: str,
    meaning: str,
    suggest: Callable[[], Suggestion],
    least_share: float = LEAST_SHARE,
) -> Finding | None:
    """A finding about a share of something, unless the share is small.

    Args:
        count (int): of these many ...
        total (int): ... of so many.
        what (str): what is counted, in the plural.
        meaning (str): the rest of the sentence, after the count.
        suggest (callable): asked if it is a finding.
        least_share (float): a smaller share is no finding. Nothing never is one.
    """
    count, total = int(count), int(total)
    if count == 0 or count < least_share * total:
        return None
    return Finding(
        WARNING if count >= WARNING_SHARE * total else NOTE,
        f"{of(count, total, what)} {meaning}.",
        {"count": count, "total": total},
        suggest(),
    )
