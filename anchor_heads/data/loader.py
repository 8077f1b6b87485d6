"""The training loader: Detectron2's data sets, samplers and mapper, resumable at any iteration.

The stream of images follows from the seed alone. A run that starts at iteration k therefore finds
its place by counting through the indices of the batches before k, without reading an image.
"""

import itertools
import logging
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset, build_detection_train_loader
from detectron2.data.build import trivial_batch_collator
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, IterableDataset

from anchor_heads._private import whole_stream
from anchor_heads.data.mapper import DatasetMapper
from anchor_heads.data.mixing import MixedImages

logger = logging.getLogger(__name__)


def build_train_loader(
    cfg: CfgNode, start_iter: int = 0, mapper: Callable | None = None
) -> Iterable[list[dict]]:
    """An endless loader of this process's part of the batches of DATASETS.TRAIN.

    Batches do not depend on the number of loader workers, and neither do random augmentations,
    which depend on the seed and the position of the image in the stream. Process r of n takes
    every n-th image of each batch from the r-th on, so that n processes together see the batches
    of one process. With DATALOADER.ASPECT_RATIO_GROUPING too: where Detectron2 groups the images
    of each process, here the whole batch is of one kind.

    Args:
        cfg (CfgNode): the config; its keys mean what they mean for Detectron2's loader. SEED
            decides the order of images; where it is negative, a random number does.
        start_iter (int): the number of batches to leave out, those of earlier iterations.
        mapper (callable or None): makes the model's input of a data set dict. Default:
            :class:`anchor_heads.data.mapper.DatasetMapper`.

    Returns:
        iterable[list[dict]]: each list has SOLVER.IMS_PER_BATCH / number of processes images, as
        the mapper makes them.

    Raises:
        ValueError: if the batch cannot be divided among the processes, or images cannot be grouped
            because their sizes are not known.
    """
    seed = run_seed(cfg)
    parts = _parts(cfg, seed, mapper)
    dataset = parts["dataset"]
    if isinstance(dataset, IterableDataset):
        logger.warning("DATASETS.TRAIN is a stream without indices: a resumed run starts it anew.")
        return build_detection_train_loader(**parts)

    batches = ResumableBatches(
        whole_stream(parts["sampler"]),
        _divisible(parts["total_batch_size"]),
        groups=_is_wide(dataset) if parts["aspect_ratio_grouping"] else None,
        start=start_iter,
    )
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return DataLoader(
        _SeededDataset(_mapped(cfg, dataset, parts["mapper"]), seed),
        batch_sampler=batches,
        num_workers=parts["num_workers"],
        collate_fn=trivial_batch_collator,
        worker_init_fn=_outlive_one_sigterm,
    )


def _outlive_one_sigterm(worker: int) -> None:
    """Let a worker go on after a signal to all processes of a job, so that the step can end.

    A second SIGTERM ends it, such as that of Python to the children that are left at its end.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


class ResumableBatches:
    """This process's parts of the batches, as (index, place): which image, and its place in the
    stream."""

    def __init__(
        self,
        indices: Iterable[int],
        batch_size: int,
        groups: Sequence[bool] | None = None,
        start: int = 0,
    ):
        """
        Args:
            indices (iterable[int]): the endless stream of all processes. It must be the same each
                time it is iterated over.
            batch_size (int): the number of images in a batch, of all processes together.
            groups (sequence[bool] or None): if given, a batch only has images with the same value.
            start (int): the number of batches to leave out.
        """
        self.indices = indices
        self.batch_size = batch_size
        self.groups = groups
        self.start = start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for batch in itertools.islice(self._batches(), self.start, None):
            yield batch[comm.get_rank() :: comm.get_world_size()]

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        waiting = {False: [], True: []}
        for place, index in enumerate(self.indices):
            batch = waiting[self.groups[index] if self.groups else False]
            batch.append((index, place))
            if len(batch) == self.batch_size:
                yield batch.copy()
                batch.clear()


class _SeededDataset(Dataset):
    """Images by (index, place), with the random augmentations that belong to the place."""

    def __init__(self, dataset: Dataset, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, index_and_place: tuple[int, int]) -> dict:
        index, place = index_and_place
        seed_rng(self.seed, place)
        return self.dataset[index]


def seed_rng(*key: int) -> None:
    """Seed the random numbers of Python, numpy and torch with a mix of non-negative integers."""
    seed = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def run_seed(cfg: CfgNode) -> int:
    """cfg.SEED; when that is negative, a random number that all processes share."""
    return cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()


def _parts(cfg: CfgNode, seed: int, mapper: Callable | None) -> dict:
    """The arguments that Detectron2 makes of the config for its own loader."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SEED = seed
    # Samplers that do not know cfg.SEED draw a seed of their own from numpy.
    seed_rng(seed)
    return build_detection_train_loader.from_config(cfg, mapper=mapper or DatasetMapper(cfg))


def _mapped(cfg: CfgNode, dataset: Sequence[dict], mapper: Callable) -> Dataset:
    """The data set as the mapper makes it, its images mixed where the config says so."""
    if not any((cfg.INPUT.MOSAIC, cfg.INPUT.MIXUP, cfg.INPUT.COPY_PASTE)):
        return MapDataset(dataset, mapper)
    if not isinstance(mapper, DatasetMapper):
        raise ValueError(
            "INPUT.MOSAIC, INPUT.MIXUP and INPUT.COPY_PASTE need anchor_heads.data.mapper."
            f"DatasetMapper or a subclass of it as mapper, not {type(mapper).__name__}"
        )
    return MixedImages(cfg, dataset, mapper)


def _divisible(batch_size: int) -> int:
    """The batch size, if it can be divided among the processes."""
    if batch_size < 1 or batch_size % comm.get_world_size():
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {batch_size}, which cannot be divided among "
            f"{comm.get_world_size()} processes."
        )
    return batch_size


def _is_wide(dataset: Sequence[dict]) -> list[bool]:
    """Whether each image is wider than high, as Detectron2 groups them."""
    try:
        return [dataset[i]["width"] > dataset[i]["height"] for i in range(len(dataset))]
    except KeyError as error:
        raise ValueError(
            f"The data set does not tell the {error} of its images, so they cannot be grouped: "
            "write DATALOADER.ASPECT_RATIO_GROUPING False."
        ) from None
