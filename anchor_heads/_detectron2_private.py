"""What this package uses of Detectron2 and fvcore that has an underscore, and why.

Each has no public way. tests/test_detectron2_private.py fails when one of them changes.

Methods that subclasses override:

- ``Checkpointer._load_file``, ``DetectionCheckpointer._torch_load``: "can be overwritten by
  subclasses to support different formats", says fvcore. Published weights are read there.
- ``Checkpointer._load_model``: the one place that knows which parameters stay as initialised.
- ``SimpleTrainer._data_loader_iter``: the step takes its images from it, as Detectron2's does.
"""

from detectron2.checkpoint import DetectionCheckpointer
from torch.utils.data import Sampler


def forget_refused_load(checkpointer: DetectionCheckpointer) -> None:
    """Let a checkpointer load again after an error; it asserts that no load is going on."""
    checkpointer._parsed_url_during_load = None


def whole_stream(sampler: Sampler) -> Sampler:
    """Let one of Detectron2's samplers give its whole stream, not this process's part of it.

    The processes share batches, not images, so that n of them see what one would see.
    """
    sampler._rank, sampler._world_size = 0, 1
    return sampler
