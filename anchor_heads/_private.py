"""What this package uses of Detectron2, fvcore and torch that has an underscore, and why.

Each has no public way. tests/test_private.py fails when one of them changes.

Methods that subclasses override:

- ``Checkpointer._load_file``, ``DetectionCheckpointer._torch_load``: "can be overwritten by
  subclasses to support different formats", says fvcore. Published weights are read there.
- ``Checkpointer._load_model``: the one place that knows which parameters stay as initialised.
- ``COCOEvaluator._derive_coco_results``, ``_eval_box_proposals``: the one place that has
  pycocotools' results, and that of the recall of proposals.
- ``SimpleTrainer._data_loader_iter``: the step takes its images from it, as Detectron2's does.
"""

from contextlib import AbstractContextManager
from unittest import mock

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling.proposal_generator import proposal_utils
from torch._dynamo import config as dynamo
from torch.fx.experimental import _config as symbolic_shapes
from torch.utils._pytree import tree_map_only  # torch has no public map over nested outputs
from torch.utils.data import Sampler

__all__ = [
    "compiled_for_every_size",
    "forget_refused_load",
    "keep_proposals_by_mask",
    "sizes_may_be_one",
    "tree_map_only",
    "whole_stream",
]


def compiled_for_every_size() -> AbstractContextManager:
    """Let torch.compile compile a function for every size and model that it is called with.

    After the eighth, those of all models of a process together, it silently runs it in eager.
    ``torch.compile`` has an argument for this in its newest versions alone.
    """
    return dynamo.patch(recompile_limit=10_000, accumulated_recompile_limit=10_000)


def forget_refused_load(checkpointer: DetectionCheckpointer) -> None:
    """Let a checkpointer load again after an error; it asserts that no load is going on."""
    checkpointer._parsed_url_during_load = None


def whole_stream(sampler: Sampler) -> Sampler:
    """Let one of Detectron2's samplers give its whole stream, not this process's part of it.

    The processes share batches, not images, so that n of them see what one would see.
    """
    sampler._rank, sampler._world_size = 0, 1
    return sampler


def keep_proposals_by_mask() -> AbstractContextManager:
    """Let Detectron2 drop empty proposals without asking first whether there are any.

    It asks unless ``torch.jit.trace`` is at work, and torch.export cannot record the question.
    """
    return mock.patch.object(proposal_utils, "_is_tracing", lambda: True)


def sizes_may_be_one() -> AbstractContextManager:
    """Let torch.export record dynamic sizes that may be 1, as that of a level with one cell.

    It takes sizes over 1 in the example for sizes over 1 ever after; ``Dim`` cannot say otherwise.
    """
    return symbolic_shapes.patch(backed_size_oblivious=True)
