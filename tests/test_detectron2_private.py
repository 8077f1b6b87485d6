"""What this package uses of Detectron2 that has an underscore is there, and does what it did."""

import inspect
import itertools

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import nn

from anchor_heads._detectron2_private import forget_refused_load, whole_stream


@pytest.mark.parametrize(
    "owner, name, arguments",
    [
        (DetectionCheckpointer, "_load_file", ["self", "filename"]),
        (DetectionCheckpointer, "_torch_load", ["self", "f"]),
        (DetectionCheckpointer, "_load_model", ["self", "checkpoint"]),
    ],
)
def test_overridden_methods(owner, name, arguments):
    assert list(inspect.signature(getattr(owner, name)).parameters) == arguments


def test_a_load_that_was_refused(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "model.pth")
    checkpointer = DetectionCheckpointer(nn.Linear(1, 1))
    with pytest.raises(AssertionError):
        checkpointer.load(str(tmp_path / "no.pth"))
    with pytest.raises(AssertionError):  # of Detectron2: the next load is refused, too
        checkpointer.load(str(tmp_path / "model.pth"))
    forget_refused_load(checkpointer)
    checkpointer.load(str(tmp_path / "model.pth"))


def test_the_iterator_of_a_trainer():
    model = nn.Linear(1, 1)
    trainer = SimpleTrainer(model, [1, 2], torch.optim.SGD(model.parameters(), lr=1))
    assert [next(trainer._data_loader_iter) for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainingSampler(6, shuffle=True, seed=3),
        lambda: RepeatFactorTrainingSampler(torch.ones(6), seed=3),
    ],
)
def test_the_stream_of_all_processes(monkeypatch, make):
    expected = list(itertools.islice(make(), 12))
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(comm, "get_rank", lambda: 1)
    assert list(itertools.islice(make(), 6)) == expected[1::2]
    assert list(itertools.islice(whole_stream(make()), 12)) == expected
