"""The description of a format of published weights."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Classes:
    """How the number of classes is determined from converted weights."""

    key: str
    """Config key of the number of classes."""
    layer: str
    """Parameter whose first dimension depends on the number of classes."""
    outputs: int = 1
    """Entries of that dimension per class."""
    background: int = 0
    """1 if the background is one of the classes, else 0."""

    def count(self, weights: dict[str, Tensor]) -> int:
        """The number of classes of converted weights."""
        return len(weights[self.layer]) // self.outputs - self.background


@dataclass(frozen=True)
class Format:
    """The names and the layout of the weights of one model in one framework.

    Patterns are regular expressions that match a whole key.
    """

    framework: str
    model: str
    """Name of the model in the framework."""
    signature_keys: tuple[str, ...]
    """Patterns that identify the format: each has to match a key."""
    names: dict[str, str]
    """Pattern of a key -> name in Detectron2, which can refer to the pattern's groups."""
    values: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    """Pattern of a key -> transformation of the tensor."""
    unused: tuple[str, ...] = ()
    """Patterns of keys without learned values."""
    versions: tuple[str, ...] = ()
    """Prefixes of the framework's versions, if the format belongs to certain versions only."""
    note: str = ""
    """Advice for users of the weights."""
    meta_architecture: str = ""
    """``MODEL.META_ARCHITECTURE``; "" = any."""
    proposal_generator: str = ""
    """``MODEL.PROPOSAL_GENERATOR.NAME``; "" = any."""
    fills: str = ""
    """Prefix of the parameters that the weights must provide; "" = the whole model."""
    classes: Classes | None = None
    """None if the model has no classes."""

    def __str__(self):
        return f"{self.model} of {self.framework}"
