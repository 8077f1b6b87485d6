import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog

from anchor_heads.data.augmentation import ColorJitter
from anchor_heads.data.checks import check_datasets
from anchor_heads.data.loader import build_train_loader, seed_rng
from anchor_heads.data.mapper import DatasetMapper
from anchor_heads.data.mixing import MixedImages, Scene, copy_paste, mixup, mosaic


def scene(value, height=60, width=80, side=20):
    """A grey image with a brighter square of ``side`` pixels in its middle."""
    image = np.full((height, width, 3), value, np.uint8)
    y, x = (height - side) // 2, (width - side) // 2
    image[y : y + side, x : x + side] = value + 100
    mask = np.zeros((height, width), bool)
    mask[y : y + side, x : x + side] = True
    return Scene(
        image,
        [
            {
                "category_id": value // 10,
                "bbox": np.array([x, y, x + side, y + side], float),
                "mask": mask,
                "keypoints": np.array([[x + 1, y + 1, 2], [x + side, y + side, 1]], float),
            }
        ],
    )


@pytest.mark.parametrize("seed", range(20))
def test_mosaic(seed):
    seed_rng(seed)
    values = [10, 40, 70, 100]
    sizes = [(60, 80), (90, 50)] * 2
    mixed = mosaic([scene(v, *size) for v, size in zip(values, sizes, strict=True)])
    assert mixed.image.shape == (60, 80, 3)
    for found in mixed.objects:
        value = 10 * found["category_id"]
        assert value in values
        x0, y0, x1, y1 = found["bbox"]
        assert 0 <= x0 < x1 <= 80 and 0 <= y0 < y1 <= 60
        middle = mixed.image[int((y0 + y1) / 2), int((x0 + x1) / 2)]
        assert np.abs(middle.astype(int) - (value + 100)).max() <= 3
        rows, columns = np.flatnonzero(found["mask"].any(1)), np.flatnonzero(found["mask"].any(0))
        extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        np.testing.assert_allclose(extent, found["bbox"], atol=1.01)
        seen = found["keypoints"][found["keypoints"][:, 2] > 0]
        assert ((seen[:, :2] >= [x0 - 1, y0 - 1]) & (seen[:, :2] <= [x1 + 1, y1 + 1])).all()


def test_mosaics_have_objects_of_all_four():
    seed_rng(0)
    classes = [
        found["category_id"]
        for _ in range(50)
        for found in mosaic([scene(v) for v in (10, 40, 70, 100)]).objects
    ]
    assert min(np.bincount(classes)[[1, 4, 7, 10]]) > 5


@pytest.mark.parametrize("seed", range(5))
def test_mixup(seed):
    seed_rng(seed)
    first = scene(10)
    mixed = mixup(first, scene(100, 90, 50))
    assert mixed.image.shape == first.image.shape
    assert mixed.objects[0] is first.objects[0]
    values = np.unique(mixed.image)
    # of ground (10) and object (110) with fill (114), ground (100) and object (200)
    assert values.min() >= 54 and values.max() <= 155


def test_copy_paste():
    pasted = 0
    for seed in range(20):
        seed_rng(seed)
        first = scene(10, 100, 100, 40)
        mixed = copy_paste(first, scene(100, 90, 90, 30))
        new = [x for x in mixed.objects if x["category_id"] == 10]
        old = [x for x in mixed.objects if x["category_id"] == 1]
        if not new:
            assert mixed is first
            continue
        pasted += 1
        front = new[0]["mask"]
        assert (np.abs(mixed.image[front].astype(int) - 200) <= 3).mean() > 0.8
        assert (mixed.image[~front] == first.image[~front]).all()
        for found in old:
            assert not (found["mask"] & front).any()
            assert found["mask"].sum() >= 0.25 * 40 * 40
            x0, y0, x1, y1 = found["bbox"].astype(int)
            assert found["mask"].sum() == found["mask"][y0:y1, x0:x1].sum()
    assert 4 < pasted < 16


@pytest.fixture
def cfg(coco, save, config, tmp_path):
    for annotation in coco["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotation["keypoints"] = [x, y, 2, x + w / 2, y + h / 2, 1]
    save(coco)
    rng = np.random.default_rng(0)
    for image in coco["images"]:
        pixels = rng.integers(0, 255, (image["height"], image["width"], 3), np.uint8)
        cv2.imwrite(str(tmp_path / "images" / image["file_name"]), pixels)
    cfg = config(train=["own"])
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MASK_FORMAT = (60,), "bitmask"
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 2
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH, cfg.SEED = 0, 2, 1
    return cfg


def batches(cfg, start=0, number=4):
    loader = iter(build_train_loader(cfg, start))
    return [next(loader) for _ in range(number)]


def assert_same(found, expected):
    for image, other in zip(sum(found, []), sum(expected, []), strict=True):
        assert torch.equal(image["image"], other["image"])
        ours, theirs = image["instances"], other["instances"]
        assert torch.equal(ours.gt_boxes.tensor, theirs.gt_boxes.tensor)
        assert torch.equal(ours.gt_classes, theirs.gt_classes)


ALL = {"MOSAIC": 0.5, "MIXUP": 0.5, "COPY_PASTE": 0.5, "COLOR_JITTER": [0.4, 0.4, 0.4, 0.1]}


@pytest.mark.parametrize("keys", [{key: ALL[key]} for key in ALL] + [ALL], ids=[*ALL, "all"])
@pytest.mark.parametrize("heads", [(False, False), (True, True)], ids=["boxes", "masks, keypoints"])
def test_the_loader_mixes_and_resumes(cfg, keys, heads):
    cfg.MODEL.MASK_ON, cfg.MODEL.KEYPOINT_ON = heads
    check_datasets(cfg)
    plain = batches(cfg)
    cfg.INPUT.merge_from_list([item for pair in keys.items() for item in pair])
    check_datasets(cfg)
    mixed = batches(cfg)
    assert any(
        not torch.equal(a["image"], b["image"])
        for a, b in zip(sum(mixed, []), sum(plain, []), strict=True)
    )
    for image in sum(mixed, []):
        instances = image["instances"]
        assert instances.has("gt_masks") == instances.has("gt_keypoints") == heads[0]
        assert (instances.gt_boxes.area() > 0).all()
        if heads[0]:
            assert instances.gt_masks.tensor.shape[1:] == image["image"].shape[1:]
    assert_same(batches(cfg, start=2, number=2), mixed[2:])
    cfg.DATALOADER.NUM_WORKERS = 1
    assert_same(batches(cfg, number=2), mixed[:2])


@pytest.mark.parametrize(
    "keys, message",
    [
        (["INPUT.MIXUP", 1.5], "INPUT.MIXUP is 1.5: a probability is from 0 to 1"),
        (["INPUT.MOSAIC", 0.5, "MODEL.LOAD_PROPOSALS", True], "INPUT.MOSAIC: mixed images have no"),
        (
            ["INPUT.MOSAIC", 0.5, "MODEL.MASK_ON", True, "INPUT.MASK_FORMAT", "polygon"],
            "INPUT.MOSAIC: polygons are not cut where images meet: set INPUT.MASK_FORMAT bitmask",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(cfg, keys, message):
    cfg.merge_from_list(keys)
    with pytest.raises(ValueError, match=message):
        check_datasets(cfg)


def test_copy_paste_needs_masks(coco, save, config):
    save(coco, "boxes")
    cfg = config(train=["boxes"])
    cfg.INPUT.COPY_PASTE = 0.5
    with pytest.raises(ValueError, match="COPY_PASTE is 0.5, and no object of data set 'boxes'"):
        check_datasets(cfg)
    assert len(DatasetCatalog.get("boxes")) == 2


def test_mixing_needs_its_own_mapper(cfg):
    cfg.INPUT.MOSAIC = 1.0
    check_datasets(cfg)
    with pytest.raises(ValueError, match="need anchor_heads.data.mapper.DatasetMapper or a subcl"):
        build_train_loader(cfg, mapper=lambda record: record)


def test_mixing_images_of_other_records(cfg, tmp_path):
    check_datasets(cfg)
    records = DatasetCatalog.get("own")
    del records[0]["annotations"]
    parts = {"mosaic": 1.0, "mixup": 1.0, "copy_paste": 0.0, "with_masks": False}
    mixed = MixedImages(dataset=records, mapper=DatasetMapper(cfg), **parts)
    assert {"image", "instances"} <= mixed[0].keys()
    records[1]["sem_seg_file_name"] = "x.png"
    with pytest.raises(ValueError, match="COPY_PASTE do not mix semantic segmentation"):
        mixed[1]


def test_color_jitter_knows_the_order_of_channels():
    red = np.zeros((4, 4, 3), np.uint8)
    red[:, :, 0] = 200
    for strengths in ((0.5, 0, 0, 0), (0, 0.5, 0.5, 0), (0, 0, 0, 0.3), (0.2, 0.2, 0.2, 0.2)):
        results = {}
        for format, image in (("RGB", red), ("BGR", red[:, :, ::-1])):
            seed_rng(3)
            transform = ColorJitter(strengths, format).get_transform(image)
            results[format] = transform.apply_image(image)
            np.testing.assert_array_equal(transform.apply_image(image), results[format])
        assert results["RGB"].dtype == np.uint8
        np.testing.assert_array_equal(results["RGB"], results["BGR"][:, :, ::-1])
        assert (results["RGB"] != red).any()
