"""How a format of published weights is described; each framework's module has its formats."""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Classes:
    """Where converted weights show their number of classes."""

    key: str
    """The config key that says the same."""
    layer: str
    """The parameter whose first axis counts classes."""
    outputs: int = 1
    """Entries of that axis per class."""
    background: int = 0
    """1 if the background counts as a class, else 0."""

    def count(self, weights: dict[str, Tensor]) -> int:
        """The number of classes of converted weights."""
        return len(weights[self.layer]) // self.outputs - self.background


@dataclass(frozen=True)
class Format:
    """The weights of one model as one framework names and arranges them.

    Patterns are regular expressions for a whole key.
    """

    framework: str
    model: str
    """The model's name, as in the framework."""
    marks: tuple[str, ...]
    """Patterns that tell the format: each is that of some key."""
    names: dict[str, str]
    """Pattern of a key -> its name here, with the pattern's groups filled in."""
    values: dict[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)
    """Pattern of a key -> what has to be done to the tensor."""
    unused: tuple[str, ...] = ()
    """Patterns of keys that hold nothing to be learned."""
    versions: tuple[str, ...] = ()
    """Beginnings of the framework's version, if the format is that of certain versions only."""
    note: str = ""
    """What a user of the weights should know or set."""
    meta_architecture: str = ""
    """``MODEL.META_ARCHITECTURE`` of the model here. "" = any."""
    proposal_generator: str = ""
    """``MODEL.PROPOSAL_GENERATOR.NAME``. "" = any."""
    fills: str = ""
    """Beginning of the names here that the weights must fill. "" = the whole model."""
    classes: Classes | None = None
    """None if the weights know no classes."""

    def __str__(self):
        return f"{self.model} of {self.framework}"
