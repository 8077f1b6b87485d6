"""Masks and keypoints of one's own data, trained and evaluated under ROI heads."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from tiny_run import SIZES, arguments, loggers_as_before, write_config, write_data_set

from anchor_heads.engine import Trainer, setup


@pytest.fixture
def folder(tmp_path):
    write_data_set(tmp_path, num_images=3)
    return tmp_path


def change_annotations(folder, change):
    path = folder / "annotations.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        change(annotation)
    path.write_text(json.dumps(content))


def polygon(annotation):
    x, y, w, h = annotation["bbox"]
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def run_lengths(annotation, compressed):
    width, height = SIZES[annotation["image_id"] % len(SIZES)]
    rle = mask_util.frPyObjects([polygon(annotation)], height, width)[0]
    if compressed:
        return {**rle, "counts": rle["counts"].decode()}
    bits = mask_util.decode(rle).flatten(order="F")
    edges = np.flatnonzero(np.diff(bits)) + 1
    return {"size": [height, width], "counts": np.diff([0, *edges, bits.size]).tolist()}


MASKS = {
    "polygons": lambda annotation: [polygon(annotation)],
    "flat polygon of text": lambda annotation: [str(x) for x in polygon(annotation)],
    "run lengths": lambda annotation: run_lengths(annotation, compressed=False),
    "compressed": lambda annotation: run_lengths(annotation, compressed=True),
}
ROI_HEADS = ("MODEL.MASK_ON", True, "MODEL.ROI_MASK_HEAD.NAME", "MaskRCNNConvUpsampleHead")
ROI_HEADS += ("MODEL.ROI_MASK_HEAD.NUM_CONV", 1, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8)


def train(folder, *overrides):
    overrides = ("SOLVER.MAX_ITER", 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, *overrides)
    config = write_config(folder, "GeneralizedRCNN", overrides)
    with loggers_as_before():
        Trainer(setup(arguments(config))).train()
    return json.loads((folder / "output/metrics.json").read_text().splitlines()[-1])


@pytest.mark.parametrize("kind", MASKS)
def test_masks(folder, kind):
    def add_mask(annotation):
        annotation["segmentation"] = MASKS[kind](annotation)

    change_annotations(folder, add_mask)
    if "polygon" not in kind:
        with pytest.raises(ValueError, match="are run-length codes, .* set INPUT.MASK_FORMAT bit"):
            train(folder, *ROI_HEADS)
        DatasetCatalog.pop(folder.name), MetadataCatalog.pop(folder.name)
    results = train(folder, *ROI_HEADS, "INPUT.MASK_FORMAT", "bitmask")
    assert 0 <= results["bbox/AP"] <= 100 and 0 <= results["segm/AP"] <= 100


def test_keypoints(folder):
    def add_keypoints(annotation):
        x, y, w, h = annotation["bbox"]
        annotation["keypoints"] = [[x, y, 2], [x + w, y, "2"], [x + w, y + h, 1]]

    change_annotations(folder, add_keypoints)
    keys = ["MODEL.KEYPOINT_ON", True, "INPUT.RANDOM_FLIP", "horizontal"]
    with pytest.raises(ValueError, match="Write MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS 3"):
        train(folder, *keys)
    DatasetCatalog.pop(folder.name), MetadataCatalog.pop(folder.name)
    keys += ["MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", 3]
    keys += ["MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", (8,)]
    with pytest.raises(ValueError, match="predicts 3 keypoints, and there are 17 sigmas"):
        train(folder, *keys)
    DatasetCatalog.pop(folder.name), MetadataCatalog.pop(folder.name)
    results = train(folder, *keys, "TEST.KEYPOINT_OKS_SIGMAS", [0.05] * 3)
    assert 0 <= results["bbox/AP"] <= 100 and 0 <= results["keypoints/AP"] <= 100


def test_what_was_changed_is_in_the_log(folder):
    change_annotations(folder, lambda annotation: annotation.update(iscrowd="0"))
    config = write_config(folder)
    with loggers_as_before():
        setup(arguments(config))
    log = (folder / "output/log.txt").read_text()
    assert log.count("4 of 4 annotations with 'iscrowd' converted") == 1
