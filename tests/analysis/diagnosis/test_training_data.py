import json

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.structures import BoxMode

from anchor_heads import get_cfg
from anchor_heads.analysis.diagnosis.training_data import read_training_data, short_side

IMAGES = [(1, 100, 50), (2, 50, 100), (3, 400, 50), (4, 100, 50)]  # id, width, height
BOXES = [  # image, category, box, crowd
    (1, 7, [10, 10, 20, 30], 0),
    (1, 5, [0, 0, 100, 50], 1),
    (2, 5, [10, 40, 20, 20], 0),
    (3, 7, [0, 0, 400, 50], 0),
    (3, 7, [40, 5, 4, 4], 0),
]


@pytest.fixture
def cfg(tmp_path):
    content = {
        "images": [
            {"id": i, "file_name": f"{i}.jpg", "width": w, "height": h} for i, w, h in IMAGES
        ],
        "annotations": [
            {"id": i + 1, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
            for i, (image, category, box, crowd) in enumerate(BOXES)
        ],
        "categories": [{"id": 5, "name": "cat"}, {"id": 7, "name": "dog"}],
    }
    for i, width, height in IMAGES:
        cv2.imwrite(str(tmp_path / f"{i}.jpg"), np.zeros((height, width, 3), np.uint8))
    (tmp_path / "own.json").write_text(json.dumps(content))
    cfg = get_cfg()
    cfg.DATASETS.COCO_FORMAT = [("own", str(tmp_path / "own.json"), str(tmp_path))]
    cfg.DATASETS.TRAIN = ("own",)
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (100,), 400
    return cfg


def test_boxes_are_in_the_frame_of_the_network(cfg):
    data = read_training_data(cfg)
    assert data.image_sizes.tolist() == [[200, 100], [100, 200], [400, 50]]
    assert data.objects.boxes.tolist() == [
        [20, 20, 60, 80],  # twice as large
        [20, 80, 60, 120],
        [0, 0, 400, 50],  # as large as MAX_SIZE_TRAIN allows
        [40, 5, 44, 9],
    ]
    assert data.objects.image_sizes.tolist() == data.image_sizes[[0, 1, 2, 2]].tolist()
    assert data.objects.sizes.tolist() == pytest.approx([2400**0.5, 40, 20000**0.5, 4])


def test_crowds_do_not_count_and_images_without_objects_are_left_out(cfg):
    data = read_training_data(cfg)
    assert data.objects.images.tolist() == [0, 1, 2, 2]
    assert data.objects_per_image.tolist() == [1, 1, 2]
    assert data.objects.classes.tolist() == [1, 0, 1, 1]
    assert data.class_names == ["cat", "dog"]
    assert (len(data.image_sizes), data.num_left_out) == (3, 1)

    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    data = read_training_data(cfg)
    assert data.objects_per_image.tolist() == [1, 1, 2, 0]
    assert (len(data.image_sizes), data.num_left_out) == (4, 0)


def test_several_data_sets_count_together(cfg):
    entry = cfg.DATASETS.COCO_FORMAT[0]
    cfg.DATASETS.COCO_FORMAT = [entry, ("again", *entry[1:])]
    cfg.DATASETS.TRAIN = ("own", "again")
    data = read_training_data(cfg)
    assert data.objects.images.tolist() == [0, 1, 2, 2, 3, 4, 5, 5]
    assert data.objects.classes.tolist() == [1, 0, 1, 1] * 2 and len(data.image_sizes) == 6


@pytest.mark.parametrize(
    "sides, sampling, side",
    [((480,), "choice", 480), ((640, 480, 800), "choice", 640), ((480, 960), "range", 720)],
)
def test_the_middle_one_of_several_sizes_is_looked_at(cfg, sides, sampling, side):
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = sides, sampling
    assert short_side(cfg) == side


def test_images_may_keep_their_size(cfg):
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    data = read_training_data(cfg)
    assert data.image_sizes.tolist() == [[100, 50], [50, 100], [400, 50]]
    assert data.objects.boxes[0].tolist() == [10, 10, 30, 40]


def test_what_keeps_the_data_from_being_read_is_said(cfg):
    cfg.MODEL.RETINANET.NUM_CLASSES = 80  # not this
    read_training_data(cfg)
    cfg.DATASETS.TRAIN = ("absent",)
    with pytest.raises(ValueError, match="there is no data set 'absent'"):
        read_training_data(cfg)
    cfg.DATASETS.TRAIN = ()
    with pytest.raises(ValueError, match="DATASETS.TRAIN is empty"):
        read_training_data(cfg)


def register(name, annotation):
    record = {"file_name": "x", "width": 100, "height": 100, "annotations": [annotation]}
    DatasetCatalog.register(name, lambda: [record])


def test_boxes_of_other_kinds(cfg):
    register("corners", {"bbox": [10, 20, 40, 60], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 2})
    cfg.DATASETS.TRAIN = ("corners",)
    data = read_training_data(cfg)
    assert data.objects.boxes.tolist() == [[10, 20, 40, 60]]
    assert data.class_names == ["0", "1", "2"]  # as many as are needed, where no names are known

    # Its upright bounding box is looked at.
    box = np.array([50, 50, 20, 10, 90])
    register("rotated", {"bbox": box, "bbox_mode": BoxMode.XYWHA_ABS, "category_id": 0})
    cfg.DATASETS.TRAIN = ("rotated",)
    assert read_training_data(cfg).objects.boxes[0] == pytest.approx([45, 40, 55, 60])


def test_images_of_keypoint_models_need_visible_keypoints(cfg):
    box = {"bbox": [10, 20, 40, 60], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    register("visible", box | {"keypoints": [15, 30, 2]})
    register("hidden", box | {"keypoints": [0, 0, 0]})
    cfg.DATASETS.TRAIN = ("visible", "hidden")
    assert len(read_training_data(cfg).image_sizes) == 2
    cfg.MODEL.KEYPOINT_ON = True
    data = read_training_data(cfg)
    assert (len(data.image_sizes), len(data.objects), data.num_left_out) == (1, 1, 0)


def test_samples_and_enlargement(cfg):
    objects = read_training_data(cfg).objects
    assert objects.sample(4) is objects and len(objects.sample(3)) == 3
    assert objects.sample(3).boxes.tolist() == objects.sample(3).boxes.tolist()
    larger = objects.enlarged(1.5)
    assert larger.boxes[0].tolist() == [30, 30, 90, 120] and larger.image_sizes[0, 0] == 300
