import shutil

import pytest
from detectron2.data import DatasetCatalog
from detectron2.data.transforms import ResizeTransform
from detectron2.structures import BoxMode

from anchor_heads.data.image_records import ImageRecords, annotated_objects


def test_images_are_found_by_their_files(coco, save, config, tmp_path, monkeypatch):
    save(coco)
    records = ImageRecords(config(test=["own"]))
    found = records.find(str(tmp_path / "images/sub/three.jpg"))
    assert found["image_id"] == 3
    assert [x["category_id"] for x in found["annotations"]] == [1]
    monkeypatch.chdir(tmp_path / "images")
    assert records.find("five.jpg")["image_id"] == 5

    (tmp_path / "elsewhere").symlink_to(tmp_path / "images")
    assert records.find(str(tmp_path / "elsewhere/five.jpg"))["image_id"] == 5


def test_other_images_are_not_found(coco, save, config, tmp_path):
    save(coco)
    records = ImageRecords(config(test=["own"]))
    for copy in ("images/sub/five.jpg", "images/new.jpg", "images2.jpg"):
        shutil.copy(tmp_path / "images/five.jpg", tmp_path / copy)
        assert records.find(str(tmp_path / copy)) is None


def test_data_sets_that_are_not_there_are_passed_over(coco, save, config, tmp_path):
    save(coco)
    cfg = config(train=["own"], test=["gone"])
    cfg.DATASETS.TEST += ("coco_2017_val", "unheard_of")
    assert ImageRecords(cfg).find(str(tmp_path / "images/five.jpg"))["image_id"] == 5


def test_the_test_set_comes_first_and_is_read_once(coco, save, config, tmp_path, monkeypatch):
    save(coco), save({**coco, "annotations": []}, "empty")
    read = []
    get = DatasetCatalog.get
    monkeypatch.setattr(DatasetCatalog, "get", lambda name: (read.append(name), get(name))[1])
    records = ImageRecords(config(train=["own"], test=["empty"]))
    for name in ("five.jpg", "sub/three.jpg"):
        assert records.find(str(tmp_path / "images" / name))["annotations"] == []
    shutil.copy(tmp_path / "images/five.jpg", tmp_path / "five.jpg")
    records.find(str(tmp_path / "five.jpg"))
    assert read == ["empty"]


def test_a_broken_annotation_file_is_said(save, config, tmp_path):
    (tmp_path / "own.json").write_text("{")
    with pytest.raises(ValueError, match="own.json"):
        ImageRecords(config(test=["own"]))


def test_annotated_objects_are_resized_and_crowds_left_out():
    def annotation(box, **more):
        return {"bbox": box, "bbox_mode": BoxMode.XYWH_ABS, "category_id": 1, **more}

    annotations = [
        annotation([10, 20, 30, 40], segmentation=[[0, 0, 1, 1, 2, 2]], iscrowd=0),
        annotation([10, 20, 30, 40], iscrowd=1),
        annotation([10, 20, 0, 40]),
    ]
    objects = annotated_objects(annotations, ResizeTransform(100, 200, 50, 400), (50, 400))
    assert objects.gt_boxes.tensor.tolist() == [[20, 10, 80, 30]]
    assert objects.gt_classes.tolist() == [1]
    assert annotations[0]["bbox"] == [10, 20, 30, 40]
    assert len(annotated_objects([], ResizeTransform(100, 200, 50, 400), (50, 400))) == 0
