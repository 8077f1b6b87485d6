"""What this package uses of others that has an underscore is there, and does what it did."""

import inspect
import itertools
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.engine import SimpleTrainer
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.utils import comm
from torch import nn

from anchor_heads._private import (
    compiled_for_every_size,
    forget_refused_load,
    keep_proposals_by_mask,
    sizes_may_be_one,
    tree_map_only,
    whole_stream,
)


@pytest.mark.parametrize(
    "owner, name, arguments",
    [
        (DetectionCheckpointer, "_load_file", ["self", "filename"]),
        (DetectionCheckpointer, "_torch_load", ["self", "f"]),
        (DetectionCheckpointer, "_load_model", ["self", "checkpoint"]),
        (COCOEvaluator, "_derive_coco_results", ["self", "coco_eval", "iou_type", "class_names"]),
        (COCOEvaluator, "_eval_box_proposals", ["self", "predictions"]),
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


def test_empty_proposals_are_dropped_without_a_question(monkeypatch):
    boxes = torch.tensor([[[1.0, 1, 3, 3], [5, 5, 5, 6]]])  # the second is empty
    item = mock.Mock(side_effect=torch.Tensor.item)
    monkeypatch.setattr(torch.Tensor, "item", lambda self: item(self))
    for context in (nullcontext(), keep_proposals_by_mask()):
        item.reset_mock()
        with context:
            (kept,) = find_top_rpn_proposals(
                [boxes], [torch.tensor([[2.0, 1.0]])], [(9, 9)], 0.5, 9, 9, 0.0, False
            )
        assert kept.proposal_boxes.tensor.tolist() == [[1, 1, 3, 3]]
        assert item.called == isinstance(context, nullcontext)


def test_functions_are_compiled_for_every_size():
    for context in (nullcontext(), compiled_for_every_size()):
        torch._dynamo.reset()
        sizes = []

        def backend(graph, inputs, sizes=sizes):
            sizes.append(len(inputs[0]))
            return graph

        function = torch.compile(lambda x: x + 1, backend=backend, dynamic=False)
        with context:
            for size in range(2, 12):
                function(torch.ones(size))
        assert len(sizes) == (8 if isinstance(context, nullcontext) else 10)


class EverySecond(nn.Module):
    def forward(self, x):
        return 3 * x[::2]


def test_recorded_sizes_may_be_one():
    def record():
        return torch.export.export(
            EverySecond(),
            (torch.ones(8),),
            dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            prefer_deferred_runtime_asserts_over_guards=True,
        ).module()

    with sizes_may_be_one():
        recorded = record()
    assert recorded(torch.ones(2)).tolist() == [3]
    with pytest.raises(AssertionError, match="Guard failed"):
        record()(torch.ones(2))


def test_map_over_nested_outputs():
    mapped = tree_map_only(int, lambda x: -x, {"a": [1, "b"], "c": (2,)})
    assert mapped == {"a": [-1, "b"], "c": (-2,)}
