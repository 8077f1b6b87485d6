import shutil

import pytest
from detectron2.data import DatasetCatalog

from anchor_heads.data.image_records import ImageRecords


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
