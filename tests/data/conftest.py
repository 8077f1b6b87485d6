import copy
import json
import logging

import cv2
import numpy as np
import pytest

from anchor_heads import get_cfg

COCO = {
    "images": [
        {"id": 5, "file_name": "five.jpg", "width": 40, "height": 30},
        {"id": 3, "file_name": "sub/three.jpg", "width": 20, "height": 50},
    ],
    "annotations": [
        {"id": 7, "image_id": 5, "category_id": 20, "bbox": [1, 2, 10, 20]},
        {"id": 8, "image_id": 5, "category_id": 4, "bbox": [0.5, 0.5, 39, 29]},
        {"id": 9, "image_id": 3, "category_id": 9, "bbox": [0, 0, 20, 50]},
    ],
    "categories": [{"id": 20, "name": "c"}, {"id": 4, "name": "a"}, {"id": 9, "name": "b"}],
}


@pytest.fixture
def warnings_of(caplog, monkeypatch):
    # Detectron2's setup_logger, if another test has called it, stops the way to caplog.
    monkeypatch.setattr(logging.getLogger("anchor_heads"), "propagate", True)
    return lambda: [record.message for record in caplog.records if record.levelname == "WARNING"]


@pytest.fixture
def coco():
    return copy.deepcopy(COCO)


@pytest.fixture
def save(tmp_path):
    """Writes a content as an annotation file, and its images."""

    def save(content, name="own", images=True):
        json_file = tmp_path / f"{name}.json"
        json_file.write_text(json.dumps(content))
        for image in content["images"] if images else ():
            path = tmp_path / "images" / image["file_name"]
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.zeros((image["height"], image["width"], 3), np.uint8))
        return str(json_file)

    return save


@pytest.fixture
def config(tmp_path):
    """Makes a config with saved data sets in COCO_FORMAT, each of the name of its file."""

    def config(train=(), test=(), listed=None, classes=3, architecture="RetinaNet"):
        cfg = get_cfg()
        cfg.MODEL.META_ARCHITECTURE = architecture
        cfg.MODEL.RETINANET.NUM_CLASSES = classes
        cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = tuple(train), tuple(test)
        listed = {*train, *test} if listed is None else listed
        cfg.DATASETS.COCO_FORMAT = [
            (name, str(tmp_path / f"{name}.json"), str(tmp_path / "images")) for name in listed
        ]
        return cfg

    return config
