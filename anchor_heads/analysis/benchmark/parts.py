"""Running a model while its parts are told apart.

Parts of parts have names like "head: guide": what stands before the colon is the part.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.benchmark import timer  # waits for the GPU

from anchor_heads.analysis.benchmark.workload import detect, learn
from anchor_heads.anchor_generation.strategy import get_anchor_strategy
from anchor_heads.layers import DeformConv

BACKBONE, HEAD, ROI_HEADS, OTHER = "backbone", "head", "ROI heads", "other"
ASSIGNMENT, POST_PROCESSING = "assignment and loss", "post-processing"
GUIDE, JUDGING = "head: guide", "head: judging"
DEFORMABLE = "head: deformable convolutions"
# Names of parts in the published results, by those of the anchor strategy.
_NAMES = {"head: anchor prediction": GUIDE, "head: class and box": JUDGING}


class Meter(ABC):
    """Measures what happens from one change of the part at work to the next.

    Attributes:
        part (str): which part is at work.
    """

    def __init__(self):
        self.part = OTHER
        self.start()

    @abstractmethod
    def start(self) -> None:
        """Measure from here on."""

    @abstractmethod
    def stop(self) -> None:
        """Measure up to here, and give it to :attr:`part`."""

    def switch(self, part: str) -> str:
        """Another part is at work from here on.

        Returns:
            str: the one that was.
        """
        self.stop()
        before, self.part = self.part, part
        self.start()
        return before


class Stopwatch(Meter):
    """The time of each part, in :attr:`seconds`."""

    def __init__(self):
        self.seconds = Counter()
        super().__init__()

    def start(self):
        self._since = timer()

    def stop(self):
        self.seconds[self.part] += timer() - self._since


def run_by_part(model: nn.Module, model_input: dict, meter: Meter) -> None:
    """Do what :func:`run` does, and let a meter know which part is at work.

    In train mode the graph is cut behind every part, so that each has a backward pass of its own;
    the gradients are the same.
    """
    graphs = []

    def watched(part: str, function: Callable) -> Callable:
        def call(*args, **kwargs):
            before = meter.switch(part)
            output = function(*args, **kwargs)
            meter.switch(before)
            output, cuts = _cut(output)
            graphs.append((part, cuts))
            return output

        return call

    model.zero_grad()
    with ExitStack() as stack:
        for part, owner, method in _methods(model):
            function = watched(part, getattr(owner, method))
            stack.enter_context(patch.object(owner, method, function))
        output = learn(model, model_input) if model.training else detect(model, model_input)
    if model.training:
        sum(output.values()).backward()
        while graphs:
            part, cuts = graphs.pop()
            _backward(f"{part.split(':')[0]}: backward", cuts, meter)
    meter.stop()


def _methods(model) -> Iterator[tuple[str, object, str]]:
    """The methods in which a model does its parts: part, owner and name. They may call each
    other."""
    yield BACKBONE, model.backbone, "forward"
    strategy = get_anchor_strategy(model)
    for part in strategy.parts():
        yield _NAMES.get(part.name, part.name), part.owner, part.method
    if not model.training and not strategy.predicts_locations:
        # In training the graph around them cannot be cut.
        layers = (x for x in strategy.head.modules() if isinstance(x, DeformConv))
        yield from ((DEFORMABLE, layer, "forward") for layer in layers)
    if hasattr(model, "roi_heads"):
        yield ROI_HEADS, model.roi_heads, "forward"


def _cut(output) -> tuple[object, list[tuple[Tensor, Tensor]]]:
    """An output with leaves for the tensors that have a graph, and pairs of both."""
    cuts = []

    def leaf(x):
        if not x.requires_grad:
            return x
        cuts.append((x, x.detach().requires_grad_()))
        return cuts[-1][1]

    return tree_map_only(Tensor, leaf, output), cuts


def _backward(part, cuts, meter) -> None:
    """From the gradients of the leaves on through the graph that they were cut from."""
    pairs = [(x, leaf.grad) for x, leaf in cuts if leaf.grad is not None]
    if pairs:
        before = meter.switch(part)
        torch.autograd.backward(*zip(*pairs, strict=True))
        pairs.clear()  # while the meter sees it
        cuts.clear()
        meter.switch(before)
