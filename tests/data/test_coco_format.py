import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode

from anchor_heads.data.checks import check_datasets
from anchor_heads.data.coco_format import register_coco_format


def test_registered_data_set_has_metadata_and_loads(coco, save, config, tmp_path):
    json_file = save(coco)
    register_coco_format(config(train=["own"]))
    metadata = MetadataCatalog.get("own")
    assert metadata.json_file == json_file
    assert metadata.image_root == str(tmp_path / "images")
    assert metadata.evaluator_type == "coco"
    assert metadata.thing_classes == ["a", "b", "c"]
    assert metadata.thing_dataset_id_to_contiguous_id == {4: 0, 9: 1, 20: 2}

    three, five = DatasetCatalog.get("own")
    assert three == {
        "file_name": str(tmp_path / "images" / "sub/three.jpg"),
        "height": 50,
        "width": 20,
        "image_id": 3,
        "annotations": [
            {
                "bbox": [0, 0, 20, 50],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": 1,
                "iscrowd": 0,
            }
        ],
    }
    assert five["image_id"] == 5
    assert [a["category_id"] for a in five["annotations"]] == [2, 0]
    # ... and passes through Detectron2's own preparation
    assert len(get_detection_dataset_dicts(["own"], filter_empty=True)) == 2


def test_registering_twice_is_fine_and_another_entry_of_that_name_is_not(coco, save, config):
    save(coco), save(coco, "other")
    cfg = config(train=["own"])
    register_coco_format(cfg)
    register_coco_format(cfg)
    cfg.DATASETS.COCO_FORMAT = [("own", *config(train=["other"]).DATASETS.COCO_FORMAT[0][1:])]
    with pytest.raises(ValueError, match=r"name 'own' is taken by the entry with .*own\.json"):
        register_coco_format(cfg)


def test_names_of_detectron2_are_taken(config):
    cfg = config(train=["coco_2017_train"])
    with pytest.raises(ValueError, match="'coco_2017_train' is taken by a data set that Detectron"):
        register_coco_format(cfg)


@pytest.mark.parametrize(
    "entry", ["own", ("own", "a.json"), ("own", "a.json", 3), ("", "a.json", "images"), {"own": 1}]
)
def test_malformed_entries_are_shown_with_the_right_form(config, entry):
    cfg = config()
    cfg.DATASETS.COCO_FORMAT = [entry]
    with pytest.raises(ValueError) as error:
        register_coco_format(cfg)
    assert f"DATASETS.COCO_FORMAT: {entry!r} is not a data set" in str(error.value)
    assert '("name", "path/to/annotations.json", "path/to/images")' in str(error.value)


def test_paths_are_relative_to_the_working_directory_or_home(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    cfg = config()
    cfg.DATASETS.COCO_FORMAT = [["own", "below/own.json", "~/images"]]  # as YAML gives it
    register_coco_format(cfg)
    assert MetadataCatalog.get("own").json_file == str(tmp_path / "below" / "own.json")
    assert MetadataCatalog.get("own").image_root == "/home/somebody/images"


def test_entries_can_be_given_on_the_command_line(coco, save, config, tmp_path):
    save(coco)
    cfg = config()
    entries = f"[('own', '{tmp_path / 'own.json'}', '{tmp_path / 'images'}')]"
    cfg.merge_from_list(["DATASETS.COCO_FORMAT", entries, "DATASETS.TEST", "('own',)"])
    check_datasets(cfg, train=False)
    assert MetadataCatalog.get("own").thing_classes == ["a", "b", "c"]


def test_sets_that_are_not_used_are_not_read(coco, save, config, tmp_path):
    save(coco)
    (tmp_path / "broken.json").write_text("{")
    check_datasets(config(train=["own"], listed=["own", "broken", "absent"]))
    with pytest.raises(ValueError, match=r"broken\.json: not a JSON file"):
        DatasetCatalog.get("broken")
    with pytest.raises(FileNotFoundError, match=r"'absent': there is no annotation file .*absent"):
        DatasetCatalog.get("absent")


def test_masks_and_keypoints_are_loaded(coco, save, config):
    polygon = [[0, 0, 9, 0, 9, 9]]
    coco["annotations"][0].update(segmentation=polygon, keypoints=[3, 4, 2, 0, 0, 0])
    coco["annotations"][1].update(
        segmentation={"size": [30, 40], "counts": [0, 30 * 40]}, iscrowd=1
    )
    save(coco)
    register_coco_format(config(train=["own"]))
    three, five = DatasetCatalog.get("own")
    first, second = five["annotations"]
    assert first["segmentation"] == polygon
    assert first["keypoints"] == [3.5, 4.5, 2, 0.5, 0.5, 0]
    assert second["segmentation"]["size"] == [30, 40]
    assert isinstance(second["segmentation"]["counts"], bytes)
    assert "segmentation" not in three["annotations"][0]
