"""The training loader: Detectron2's data sets, samplers and mapper, resumable at any iteration.

The stream of images follows from the seed alone. A run that starts at iteration k therefore finds
its place by counting through the indices of the batches before k, without reading an image.
"""

import itertools
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset, build_detection_train_loader
from detectron2.data.build import trivial_batch_collator
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, IterableDataset

logger = logging.getLogger(__name__)


def build_train_loader(
    cfg: CfgNode, start_iter: int = 0, seed: int | None = None, mapper: Callable | None = None
) -> Iterable[list[dict]]:
    """An endless loader of this process's part of the batches of DATASETS.TRAIN.

    Batches do not depend on the number of loader workers, and neither do random augmentations,
    which are drawn from the seed and the place of the image in the stream. Process r of n takes
    every n-th image from the r-th on, so that n processes see the images of one process with the
    whole batch (with DATALOADER.ASPECT_RATIO_GROUPING, each groups its own images).

    Args:
        cfg (CfgNode): the config; its keys mean what they mean for Detectron2's loader.
        start_iter (int): the number of batches to leave out, those of earlier iterations.
        seed (int or None): decides the order of images, the same in every process. Default:
            cfg.SEED, or a random number when that is negative.
        mapper (callable or None): makes the model's input of a data set dict. Default:
            Detectron2's DatasetMapper.

    Returns:
        iterable[list[dict]]: each list has SOLVER.IMS_PER_BATCH / number of processes images, as
        the mapper makes them.

    Raises:
        ValueError: if the batch cannot be divided among the processes, or images cannot be grouped
            because their sizes are not known.
    """
    seed = run_seed(cfg) if seed is None else seed
    parts = _parts(cfg, seed, mapper)
    dataset = parts["dataset"]
    if isinstance(dataset, IterableDataset):
        logger.warning("DATASETS.TRAIN is a stream without indices: a resumed run starts it anew.")
        return build_detection_train_loader(**parts)

    batches = ResumableBatches(
        parts["sampler"],
        _images_per_process(parts["total_batch_size"]),
        groups=_is_wide(dataset) if parts["aspect_ratio_grouping"] else None,
        start=start_iter,
    )
    if isinstance(dataset, list):
        dataset = DatasetFromList(dataset, copy=False)
    return DataLoader(
        _SeededDataset(MapDataset(dataset, parts["mapper"]), seed),
        batch_sampler=batches,
        num_workers=parts["num_workers"],
        collate_fn=trivial_batch_collator,
    )


class ResumableBatches:
    """Batches of (index, place) of one process: which image, and its place in the whole stream."""

    def __init__(
        self,
        sampler: Iterable[int],
        batch_size: int,
        groups: Sequence[bool] | None = None,
        start: int = 0,
    ):
        """
        Args:
            sampler (iterable[int]): one of Detectron2's samplers. Each time it is iterated over, it
                must give the same endless indices, of which process r of n gets every n-th.
            batch_size (int): the number of images of this process in a batch.
            groups (sequence[bool] or None): if given, a batch only has images with the same value.
            start (int): the number of batches to leave out.
        """
        self.sampler = sampler
        self.batch_size = batch_size
        self.groups = groups
        self.start = start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return itertools.islice(self._batches(), self.start, None)

    def _batches(self) -> Iterator[list[tuple[int, int]]]:
        places = itertools.count(comm.get_rank(), comm.get_world_size())
        waiting = {False: [], True: []}
        for index, place in zip(self.sampler, places, strict=False):
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
    return build_detection_train_loader.from_config(cfg, mapper=mapper)


def _images_per_process(batch_size: int) -> int:
    images, rest = divmod(batch_size, comm.get_world_size())
    if rest or not images:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {batch_size}, which cannot be divided among "
            f"{comm.get_world_size()} processes."
        )
    return images


def _is_wide(dataset: Sequence[dict]) -> list[bool]:
    """Whether each image is wider than high, as Detectron2 groups them."""
    try:
        return [dataset[i]["width"] > dataset[i]["height"] for i in range(len(dataset))]
    except KeyError as error:
        raise ValueError(
            f"The data set does not tell the {error} of its images, so they cannot be grouped: "
            "write DATALOADER.ASPECT_RATIO_GROUPING False."
        ) from None
