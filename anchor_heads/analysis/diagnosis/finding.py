"""What a finding is, and what it looks at."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from detectron2.config import CfgNode

from anchor_heads.analysis.diagnosis.anchor_levels import (
    AnchorLevels,
    Coverage,
    build_anchor_levels,
)
from anchor_heads.analysis.diagnosis.model_kind import ModelKind, model_kind
from anchor_heads.analysis.diagnosis.training_data import TrainingData, read_training_data

# Severities. An error spoils the training, a warning costs accuracy, a note is worth knowing.
ERROR, WARNING, NOTE = "error", "warning", "note"

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
class Case:
    """A config and its training data: what every finding is made from."""

    cfg: CfgNode
    data: TrainingData
    kind: ModelKind
    levels: AnchorLevels | None
    """None for a model that has no anchors of its own."""

    @classmethod
    def from_config(cls, cfg: CfgNode) -> "Case":
        """
        Raises:
            ValueError, FileNotFoundError: see :func:`read_training_data`.
        """
        kind = model_kind(cfg)
        return cls(cfg, read_training_data(cfg), kind, build_anchor_levels(cfg, kind))

    @cached_property
    def reach(self) -> Coverage:
        """What the anchors reach of all objects. Only with ``levels``."""
        return self.levels.reach(self.data.objects)


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
