import cv2
import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import DatasetMapper as Detectron2DatasetMapper
from PIL import ExifTags, Image

from anchor_heads.data.checks import check_datasets
from anchor_heads.data.image_files import ImageFileError
from anchor_heads.data.loader import build_train_loader, seed_rng
from anchor_heads.data.mapper import DatasetMapper


@pytest.fixture
def cfg(coco, save, config, tmp_path):
    """Noise as images, and masks."""
    for annotation in coco["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h]]
    save(coco)
    rng = np.random.default_rng(0)
    for image in coco["images"]:
        pixels = rng.integers(0, 255, (image["height"], image["width"], 3), np.uint8)
        cv2.imwrite(str(tmp_path / "images" / image["file_name"]), pixels)
    cfg = config(train=["own"], test=["own"])
    cfg.INPUT.MIN_SIZE_TRAIN = cfg.INPUT.MIN_SIZE_TEST = 60
    check_datasets(cfg)
    return cfg


@pytest.mark.parametrize("is_train", [True, False])
@pytest.mark.parametrize("masks", [True, False])
def test_same_as_detectron2s(cfg, is_train, masks):
    cfg.MODEL.MASK_ON = masks
    cfg.INPUT.CROP.ENABLED = not masks  # cropping polygons takes shapely
    for record in DatasetCatalog.get("own"):
        outputs = []
        for mapper in (DatasetMapper, Detectron2DatasetMapper):
            seed_rng(0)
            outputs.append(mapper(cfg, is_train)(record))
        ours, theirs = outputs
        assert ours.keys() == theirs.keys()
        assert torch.equal(ours["image"], theirs["image"])
        if is_train:
            found, expected = ours["instances"], theirs["instances"]
            assert torch.equal(found.gt_boxes.tensor, expected.gt_boxes.tensor)
            assert found.has("gt_masks") == expected.has("gt_masks") == masks


def test_cropped_images_without_objects_have_no_masks(cfg):
    cfg.MODEL.MASK_ON = cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.MASK_FORMAT = "bitmask"
    record = DatasetCatalog.get("own")[0]
    for annotations in ([], [{**record["annotations"][0], "iscrowd": 1}]):
        output = DatasetMapper(cfg)({**record, "annotations": annotations})
        assert len(output["instances"]) == 0 and "annotations" not in output
        assert output["instances"].gt_boxes.tensor.shape == (0, 4)


def test_annotations_that_fail_name_the_file(cfg):
    record = DatasetCatalog.get("own")[0]
    record["annotations"][0]["segmentation"] = "nonsense"
    cfg.MODEL.MASK_ON = True
    with pytest.raises(
        ImageFileError, match=r"Cannot use .*sub/three\.jpg with its annotations: Va"
    ):
        DatasetMapper(cfg)(record)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_truncated_image_is_named_by_the_loader(cfg, tmp_path, num_workers):
    path = tmp_path / "images" / "five.jpg"
    path.write_bytes(path.read_bytes()[:-700])
    check_datasets(cfg)  # its header is whole
    cfg.DATALOADER.NUM_WORKERS = num_workers
    cfg.SOLVER.IMS_PER_BATCH, cfg.SEED = 2, 0
    with pytest.raises(ImageFileError, match=f"Cannot read the image {path}: .*truncated"):
        next(iter(build_train_loader(cfg)))


def test_photographs_annotated_on_stored_pixels(cfg, coco, tmp_path):
    """The boxes are of the stored pixels, so these are what the model gets."""
    for image in coco["images"]:
        path = tmp_path / "images" / image["file_name"]
        stored = Image.open(path).convert("RGB")
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        stored.save(path, exif=exif, quality=95)
    check_datasets(cfg)
    for record in DatasetCatalog.get("own"):
        loaded = DatasetMapper(cfg, False)(record)
        height, width = loaded["image"].shape[1:]
        assert (width > height) == (record["width"] > record["height"])
        with pytest.raises(ValueError, match="Mismatched image shape"):
            Detectron2DatasetMapper(cfg, False)(record)
