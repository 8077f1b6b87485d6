"""The time of each part of a model.

Parts of parts have names like "head: anchor prediction": before the colon stands the part.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from detectron2.modeling import GeneralizedRCNN
from torch import Tensor, nn
from torch.utils.benchmark import timer  # waits for the GPU

from anchor_heads._private import tree_map_only
from anchor_heads.analysis.benchmark.workload import forward
from anchor_heads.anchor_generation.strategy import Part, get_anchor_strategy

OTHER = "other"


class Stopwatch:
    """The time of each part, and of each part of a part, in :attr:`seconds`."""

    def __init__(self):
        self.seconds = Counter()
        self._part, self._since = OTHER, timer()

    def switch(self, part: str) -> str:
        """Another part is at work from here on. Returns the one that was."""
        passed = timer() - self._since
        for name in dict.fromkeys([self._part.split(":")[0], self._part]):
            self.seconds[name] += passed
        before, self._part = self._part, part
        self._since = timer()
        return before


def seconds_by_part(model: nn.Module, batch: list[dict], dtype: str) -> dict[str, float]:
    """Do what :func:`run` does, and time each part.

    In train mode the graph is cut behind every part, so that each has a backward pass of its own;
    the gradients are the same. Parts of a part come behind it, and "other" comes last.
    """
    stopwatch, graphs = Stopwatch(), []

    def watched(part: str, function: Callable) -> Callable:
        def call(*args, **kwargs):
            before = stopwatch.switch(part)
            output = function(*args, **kwargs)
            stopwatch.switch(before)
            output, cuts = _cut(output)
            graphs.append((part, cuts))
            return output

        return call

    model.zero_grad()
    with _replaced_methods(_parts(model), watched):
        output = forward(model, batch, dtype)
    if model.training:
        sum(output.values()).backward()
    while graphs:
        part, cuts = graphs.pop()
        if pairs := [(x, leaf.grad) for x, leaf in cuts if leaf.grad is not None]:
            stopwatch.switch(f"{part.split(':')[0]}: backward")
            torch.autograd.backward(*zip(*pairs, strict=True))
            stopwatch.switch(OTHER)
    stopwatch.switch(OTHER)
    first = {name: i for i, name in enumerate(stopwatch.seconds)}
    names = sorted(first, key=lambda name: (name == OTHER, first[name.split(":")[0]]))
    return {name: stopwatch.seconds[name] for name in names}


def _parts(model) -> list[Part]:
    parts = [Part("backbone", model.backbone, "forward"), *get_anchor_strategy(model).parts()]
    if isinstance(model, GeneralizedRCNN):
        parts.append(Part("ROI heads", model.roi_heads, "forward"))
    return parts


@contextmanager
def _replaced_methods(parts: list[Part], watched: Callable) -> Iterator[None]:
    """Inside the context the instances have watched methods instead of those of their classes."""
    for part in parts:
        setattr(part.owner, part.method, watched(part.name, getattr(part.owner, part.method)))
    try:
        yield
    finally:
        for part in parts:
            delattr(part.owner, part.method)


def _cut(output) -> tuple[object, list[tuple[Tensor, Tensor]]]:
    """An output with leaves for the tensors that have a graph, and pairs of both."""
    cuts = []

    def leaf(x):
        if not x.requires_grad:
            return x
        cuts.append((x, x.detach().requires_grad_()))
        return cuts[-1][1]

    return tree_map_only(Tensor, leaf, output), cuts
