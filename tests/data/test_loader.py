"""The training loader: the same stream of images wherever it starts and whoever loads it."""

import itertools
import time

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data.samplers import TrainingSampler
from detectron2.utils import comm
from tiny_run import write_config, write_data_set

from anchor_heads import get_cfg
from anchor_heads.data.coco_format import register_coco_format
from anchor_heads.data.loader import ResumableBatches, build_train_loader

LONG_ENOUGH = 15  # batches of 2: more than two passes over the 12 images


@pytest.fixture
def make_cfg(tmp_path):
    write_data_set(tmp_path)

    def make(*overrides):
        cfg = get_cfg()
        cfg.merge_from_file(write_config(tmp_path, overrides=overrides))
        register_coco_format(cfg)
        return cfg

    return make


def read(cfg, start_iter=0, stop_iter=LONG_ENOUGH):
    loader = build_train_loader(cfg, start_iter)
    return list(itertools.islice(loader, stop_iter - start_iter))


def ids(batches):
    return [[image["image_id"] for image in batch] for batch in batches]


def as_process(monkeypatch, rank, world_size):
    monkeypatch.setattr(comm, "get_rank", lambda: rank)
    monkeypatch.setattr(comm, "get_world_size", lambda: world_size)


SAMPLERS = {
    "TrainingSampler": [],
    "RepeatFactorTrainingSampler": ["DATALOADER.REPEAT_THRESHOLD", 0.9],
    "RandomSubsetTrainingSampler": [],
    "WeightedTrainingSampler": [],
    "WeightedCategoryTrainingSampler": ["DATALOADER.REPEAT_THRESHOLD", 0.9],
}


@pytest.mark.parametrize("grouping", [True, False])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_later_start_continues_the_stream(make_cfg, sampler, grouping):
    cfg = make_cfg("DATALOADER.SAMPLER_TRAIN", sampler, *SAMPLERS[sampler])
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 0.5  # a key that Detectron2's defaults lack
    cfg.DATASETS.TRAIN_REPEAT_FACTOR = [(cfg.DATASETS.TRAIN[0], 1.5)]
    cfg.DATALOADER.ASPECT_RATIO_GROUPING = grouping
    whole = ids(read(cfg))
    for start in (1, 7, 14):
        assert ids(read(cfg, start)) == whole[start:]


def test_one_pass_shows_each_image_once(make_cfg):
    cfg = make_cfg("DATALOADER.ASPECT_RATIO_GROUPING", False)
    assert sorted(sum(ids(read(cfg, 0, 6)), [])) == list(range(12))
    assert sorted(sum(ids(read(cfg, 6, 12)), [])) == list(range(12))
    assert ids(read(cfg, 0, 6)) != ids(read(cfg, 6, 12))


def test_a_batch_holds_wide_images_or_others(make_cfg):
    batches = read(make_cfg("SOLVER.IMS_PER_BATCH", 3))
    wide = [{image["width"] > image["height"] for image in batch} for batch in batches]
    assert all(len(kinds) == 1 for kinds in wide)
    assert {True} in wide and {False} in wide


def test_augmentations_depend_neither_on_workers_nor_on_the_start(make_cfg):
    overrides = ["INPUT.RANDOM_FLIP", "horizontal", "INPUT.MIN_SIZE_TRAIN", (32, 40, 48, 56, 64)]
    here, by_workers, later = (
        read(make_cfg("DATALOADER.NUM_WORKERS", workers, *overrides), start_iter)
        for workers, start_iter in ((0, 0), (2, 0), (2, 4))
    )
    assert ids(here) == ids(by_workers)
    sizes = {image["image"].shape[-2:] for batch in here for image in batch}
    assert len(sizes) > 5  # the sizes do vary
    for batches, start in ((by_workers, 0), (later, 4)):
        for images, others in zip(here[start:], batches, strict=True):
            for image, other in zip(images, others, strict=True):
                assert torch.equal(image["image"], other["image"])


def test_a_mapper_of_ones_own(make_cfg):
    batches = build_train_loader(make_cfg("SEED", 0), mapper=lambda record: record["image_id"])
    first = next(iter(batches))
    assert first == [x["image_id"] for x in next(iter(build_train_loader(make_cfg("SEED", 0))))]


@pytest.mark.parametrize("grouping", [True, False])
def test_processes_share_the_batches_of_one_process(make_cfg, monkeypatch, grouping):
    cfg = make_cfg("SOLVER.IMS_PER_BATCH", 4, "DATALOADER.ASPECT_RATIO_GROUPING", grouping)
    cfg.INPUT.MIN_SIZE_TRAIN = (32, 40, 48, 56, 64)
    whole = read(cfg)
    parts = []
    for rank in (0, 1):
        as_process(monkeypatch, rank, world_size=2)
        parts.append(read(cfg))
    for batch, *halves in zip(whole, *parts, strict=True):
        assert [len(half) for half in halves] == [2, 2]
        together = [image for pair in zip(*halves, strict=True) for image in pair]
        assert ids([together]) == ids([batch])
        for image, other in zip(batch, together, strict=True):  # with the same augmentation
            assert torch.equal(image["image"], other["image"])


def test_the_seed_decides(make_cfg):
    first, again, other = (ids(read(make_cfg("SEED", seed))) for seed in (5, 5, 6))
    assert first == again != other


def test_finding_the_place_of_iteration_90000_takes_seconds():
    sampler = TrainingSampler(118_000, seed=0)
    wide = [i % 4 > 0 for i in range(118_000)]
    start = time.process_time()
    batch = next(iter(ResumableBatches(sampler, 16, wide, start=90_000)))
    assert time.process_time() - start < 10
    assert len(batch) == 16


def test_a_batch_that_cannot_be_divided_is_refused(make_cfg, monkeypatch):
    cfg = make_cfg("SOLVER.IMS_PER_BATCH", 3)
    as_process(monkeypatch, 0, world_size=2)
    with pytest.raises(ValueError, match="IMS_PER_BATCH is 3.* 2 processes"):
        build_train_loader(cfg)


def test_images_of_unknown_size_cannot_be_grouped(make_cfg):
    cfg = make_cfg()
    records = [{"file_name": "0.png", "image_id": 0, "annotations": []}]
    DatasetCatalog.register("tiny_without_sizes", lambda: records)
    cfg.DATASETS.TRAIN = ("tiny_without_sizes",)
    with pytest.raises(ValueError, match="width.*ASPECT_RATIO_GROUPING False"):
        build_train_loader(cfg)
