import copy
import json
import logging
import math
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode

from anchor_heads import get_cfg
from anchor_heads.data import coco_json
from anchor_heads.data.checks import check_datasets
from anchor_heads.data.coco_format import register_coco_format
from anchor_heads.data.coco_json import clean_coco_dict

BCCD = Path(__file__).resolve().parents[3] / "shared" / "data" / "bccd"

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


@pytest.fixture(autouse=True)
def _restore_catalogs():
    before = set(DatasetCatalog)
    yield
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


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


# Registration


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


# Cleaning


def test_what_is_missing_is_filled_in(coco, save, warnings_of):
    cleaned = clean_coco_dict(save(coco))
    assert cleaned["info"] == {}
    assert [a["iscrowd"] for a in cleaned["annotations"]] == [0, 0, 0]
    assert [a["area"] for a in cleaned["annotations"]] == [200, 39 * 29, 1000]
    assert [a["bbox"] for a in cleaned["annotations"]] == [a["bbox"] for a in coco["annotations"]]
    assert cleaned["images"] == coco["images"]
    assert not warnings_of()


def test_what_is_there_is_kept(coco, save):
    coco["info"] = {"year": 2021}
    coco["annotations"][0].update(iscrowd=1, area=3.5, note="kept")
    cleaned = clean_coco_dict(save(coco))
    assert cleaned["info"] == {"year": 2021}
    assert cleaned["annotations"][0] == coco["annotations"][0]


def test_unusable_boxes_are_dropped_and_counted_in_one_warning(coco, save, warnings_of):
    boxes = [
        [5, 5, 0, 10],  # no width
        [5, 5, 10, -1],  # no height
        [40, 5, 10, 10],  # beyond the right side
        [-20, 5, 20, 10],
        [30, 20, 20, 20],  # sticks out at the right and below
        [-5, -6, 10, 10],
        [0, 0, 40.001, 30],  # by rounding alone
    ]
    coco["annotations"] += [
        {"id": 20 + i, "image_id": 5, "category_id": 4, "bbox": box} for i, box in enumerate(boxes)
    ]
    coco["annotations"].append({"id": 30, "image_id": 6, "category_id": 4, "bbox": [1, 1, 2, 2]})
    json_file = save(coco)
    for _ in range(2):
        annotations = {a["id"]: a for a in clean_coco_dict(json_file)["annotations"]}
    assert list(annotations) == [7, 8, 9, 24, 25, 26]
    assert annotations[24]["bbox"] == [30, 20, 10, 10] and annotations[24]["area"] == 100
    assert annotations[25]["bbox"] == [0, 0, 5, 4]
    assert annotations[26]["bbox"] == [0, 0, 40, 30]
    assert warnings_of() == [
        f"{json_file}: "
        "1 of 11 annotations dropped (image not listed), first: annotation 30 of image 6; "
        "2 of 11 boxes dropped (no width or height), first: annotation 20 of image 5; "
        "2 of 11 boxes dropped (outside the image), first: annotation 22 of image 5; "
        "2 of 11 boxes clipped to the image, first: annotation 24 of image 5"
    ]


@pytest.mark.parametrize("ids", [(1, 2, 2), (0, 1, 2), (None, 4, 5)])
def test_annotation_ids_that_evaluation_cannot_use_are_replaced(coco, save, ids):
    for annotation, id in zip(coco["annotations"], ids, strict=True):
        annotation["id"] = id
    assert [a["id"] for a in clean_coco_dict(save(coco))["annotations"]] == [1, 2, 3]


def test_polygons_of_two_points_are_no_masks(coco, save, warnings_of):
    triangle, line = [0, 0, 9, 0, 9, 9], [0, 0, 9, 9]
    coco["annotations"][0]["segmentation"] = [line]
    coco["annotations"][1]["segmentation"] = [line, triangle]
    coco["annotations"][2]["segmentation"] = []
    json_file = save(coco)
    masks = [a["segmentation"] for a in clean_coco_dict(json_file)["annotations"]]
    assert masks == [[], [triangle], []]
    assert warnings_of() == [
        f"{json_file}: 1 of 3 masks dropped (no polygon of 3 points), "
        "first: annotation 7 of image 5"
    ]


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


def test_file_without_annotations(coco, save):
    del coco["annotations"]
    assert "annotations" not in clean_coco_dict(save(coco))
    coco["annotations"] = []
    assert clean_coco_dict(save(coco, "empty"))["annotations"] == []


def test_a_file_is_parsed_once_until_it_changes(coco, save, monkeypatch):
    parsed = []
    parse = coco_json._parse
    monkeypatch.setattr(coco_json, "_parse", lambda path: parsed.append(path) or parse(path))
    json_file = save(coco)
    clean_coco_dict(json_file)["annotations"].clear()  # each caller has a copy of its own
    assert len(clean_coco_dict(json_file)["annotations"]) == 3
    assert len(parsed) == 1
    coco["annotations"].pop()
    save(coco)
    os.utime(json_file, ns=(0, 0))
    assert len(clean_coco_dict(json_file)["annotations"]) == 2
    assert len(parsed) == 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", r"not a JSON file \(Expecting property name"),
        ("[]", "not in COCO format: a list, not an object"),
        ('{"images": []}', "not in COCO format: 'categories' must be there and be a list"),
        ('{"categories": []}', "not in COCO format: 'images' must be there and be a list"),
        (
            '{"images": ["a.jpg"], "categories": []}',
            "not in COCO format: 'images' must be there and",
        ),
    ],
)
def test_files_of_another_format(tmp_path, text, message):
    json_file = tmp_path / "own.json"
    json_file.write_text(text)
    with pytest.raises(ValueError, match=rf"own\.json: {message}"):
        clean_coco_dict(str(json_file))


@pytest.mark.parametrize(
    "key, change, message",
    [
        ("categories", {"id": 4}, r"two entries of category id 4 \(c and a\)"),
        ("categories", {"id": "4"}, "category .*: needs an 'id' \\(integer\\) and a 'name'"),
        ("categories", {"name": None}, "category .*: needs an 'id' \\(integer\\) and a 'name'"),
        ("images", {"id": 3}, r"two entries of image id 3 \(five.jpg and sub/three.jpg\)"),
        ("images", {"file_name": None}, "image .*: needs an 'id' \\(integer\\) and a 'file_name'"),
        ("images", {"width": None}, r"image 5 \(five.jpg\): needs 'width' and 'height'"),
        ("images", {"height": 0}, r"image 5 \(five.jpg\): needs 'width' and 'height'"),
        ("annotations", {"image_id": None}, "annotation 7 of image None: needs an 'image_id'"),
        (
            "annotations",
            {"category_id": 2},
            r"annotation 7 of image 5: category_id 2 is not among the categories \(4, 9, 20\)",
        ),
        ("annotations", {"bbox": [1, 2, 3]}, r"annotation 7 of image 5: bbox is \[1, 2, 3\], not"),
        ("annotations", {"bbox": []}, r"annotation 7 of image 5: bbox is \[\], not 4 finite numb"),
        ("annotations", {"bbox": [1, 2, 3, math.nan]}, "annotation 7 of image 5: bbox is .*nan"),
        ("annotations", {"bbox": [1, 2, 3, math.inf]}, "annotation 7 of image 5: bbox is .*inf"),
        ("annotations", {"bbox": [1, 2, 3, "4"]}, "annotation 7 of image 5: bbox is .*'4'"),
        ("annotations", {"ignore": 1}, "annotation 7 of image 5: 'ignore' is not supported"),
    ],
)
def test_entries_that_stop_the_run(coco, save, key, change, message):
    coco[key][0].update(change)
    with pytest.raises(ValueError, match=rf"own\.json: {message}"):
        clean_coco_dict(save(coco, images=False))


def test_missing_box_and_id_are_named_by_position(coco, save):
    del coco["annotations"][1]["bbox"], coco["annotations"][1]["id"]
    message = r"annotation number 1 \(from 0\) of image 5: bbox is missing, not 4 finite"
    with pytest.raises(ValueError, match=message):
        clean_coco_dict(save(coco))


@pytest.mark.parametrize("key", ["images", "categories"])
def test_empty_lists(coco, save, key):
    coco[key] = []
    with pytest.raises(ValueError, match=f"own.json: '{key}' is empty"):
        clean_coco_dict(save(coco))


# Checks of a run


def test_good_data_sets_pass(coco, save, config):
    save(coco), save(coco, "test")
    coco["images"].append({"id": 6, "file_name": "empty.jpg", "width": 9, "height": 9})
    save(coco, "own")
    check_datasets(config(train=["own"], test=["test"]))
    images = DatasetCatalog.get("own")
    assert [len(image["annotations"]) for image in images] == [1, 2, 0]


def test_unknown_name(coco, save, config):
    save(coco)
    cfg = config(train=["own", "mine"], listed=["own"])
    with pytest.raises(ValueError) as error:
        check_datasets(cfg)
    assert "DATASETS.TRAIN: there is no data set 'mine'" in str(error.value)
    assert "(now: own)" in str(error.value)
    assert '("mine", "path/to/annotations.json", "path/to/images")' in str(error.value)


@pytest.mark.parametrize("train, key", [(True, "DATASETS.TRAIN"), (False, "DATASETS.TEST")])
def test_no_data_set_at_all(config, train, key):
    with pytest.raises(ValueError, match=f"{key} is empty"):
        check_datasets(config(), train=train)


def test_missing_annotation_file(config, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'own': there is no annotation file .*own\.json"):
        check_datasets(config(train=["own"]))


def test_evaluation_does_not_need_the_training_set(coco, save, config):
    save(coco, "test")
    cfg = config(train=["absent"], test=["test"])
    check_datasets(cfg, train=False)
    with pytest.raises(FileNotFoundError, match="'absent'"):
        check_datasets(cfg, train=True)


def test_missing_images(coco, save, config, tmp_path):
    json_file = save(coco)
    (tmp_path / "images" / "sub" / "three.jpg").unlink()
    with pytest.raises(FileNotFoundError) as error:
        check_datasets(config(test=["own"]), train=False)
    first = tmp_path / "images" / "sub" / "three.jpg"
    assert f"{json_file}: 1 of 2 images have no file, first: {first}" in str(error.value)


def test_missing_image_folder(coco, save, config, tmp_path):
    save(coco, images=False)
    with pytest.raises(FileNotFoundError, match=f"'own': there is no image folder {tmp_path}"):
        check_datasets(config(train=["own"]))


@pytest.mark.parametrize(
    "architecture, key",
    [
        ("RetinaNet", "MODEL.RETINANET.NUM_CLASSES"),
        ("FreeAnchorRetinaNet", "MODEL.RETINANET.NUM_CLASSES"),
        ("GeneralizedRCNN", "MODEL.ROI_HEADS.NUM_CLASSES"),
        ("PanopticFPN", "MODEL.ROI_HEADS.NUM_CLASSES"),
    ],
)
def test_number_of_classes(coco, save, config, architecture, key):
    save(coco)
    cfg = config(train=["own"], classes=80, architecture=architecture)
    with pytest.raises(ValueError) as error:
        check_datasets(cfg)
    assert str(error.value) == (
        f"{key} is 80, but data set 'own' has 3 classes (a, b, c). Write {key} 3"
    )
    cfg.merge_from_list([key, 3])
    check_datasets(cfg)


def test_models_without_classes_take_any_number(coco, save, config):
    save(coco)
    coco["categories"].append({"id": 1, "name": "d"})
    save(coco, "test")
    check_datasets(config(train=["own"], test=["test"], architecture="ProposalNetwork"))


def test_training_and_test_set_have_the_same_classes(coco, save, config):
    save(coco)
    coco["categories"][0]["name"] = "z"
    save(coco, "test")
    message = "'own' and 'test' have different classes: .*index 2 .* is 'c' in 'own' and 'z'"
    with pytest.raises(ValueError, match=message):
        check_datasets(config(train=["own"], test=["test"]))


def test_nothing_to_train_on(coco, save, config):
    coco["annotations"] = [{**coco["annotations"][0], "iscrowd": 1}]
    save(coco)
    cfg = config(train=["own"])
    with pytest.raises(ValueError, match="'own' has no object to train on"):
        check_datasets(cfg)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    check_datasets(cfg)


def test_sets_without_annotations_are_for_testing_only(coco, save, config):
    del coco["annotations"]
    save(coco)
    check_datasets(config(test=["own"]), train=False)
    with pytest.raises(ValueError, match="file of data set 'own' has no 'annotations'"):
        check_datasets(config(train=["own"]))


def test_a_mask_model_needs_masks(coco, save, config):
    coco["annotations"][0]["segmentation"] = [[0, 0, 9, 0, 9, 9]]
    save(coco)
    cfg = config(train=["own"])
    cfg.MODEL.MASK_ON = True
    message = "2 of 3 objects of data set 'own' have no segmentation, first: annotation 8 of image"
    with pytest.raises(ValueError, match=message):
        check_datasets(cfg)


def test_data_sets_registered_in_code(config, tmp_path):
    """Detectron2's own ones, too: checked by their metadata, without loading them."""
    DatasetCatalog.register("in_code", lambda: pytest.fail("loaded"))
    metadata = MetadataCatalog.get("in_code")
    metadata.set(json_file=str(tmp_path / "a.json"), thing_classes=["a", "b"])
    cfg = config(train=["in_code"], test=["in_code"], listed=[], classes=2)
    with pytest.raises(FileNotFoundError, match=r"a\.json does not exist.* DETECTRON2_DATASETS"):
        check_datasets(cfg)
    (tmp_path / "a.json").write_text("")
    check_datasets(cfg)
    cfg.MODEL.RETINANET.NUM_CLASSES = 3
    with pytest.raises(ValueError, match="NUM_CLASSES is 3, but data set 'in_code' has 2 classes"):
        check_datasets(cfg)


def test_cocos_test_set_has_coco_classes(config):
    cfg = config(test=["coco_2017_test-dev"], listed=[], classes=3)
    with pytest.raises((ValueError, FileNotFoundError), match="80 classes|DETECTRON2_DATASETS"):
        check_datasets(cfg, train=False)


@pytest.mark.skipif(not BCCD.is_dir(), reason="the BCCD data set is not here")
def test_bccd(config, warnings_of):
    cfg = config(train=["bccd_train"], test=["bccd_val", "bccd_test"])
    cfg.DATASETS.COCO_FORMAT = [
        (f"bccd_{split}", str(BCCD / f"{split}.json"), str(BCCD / "images"))
        for split in ("train", "val", "test")
    ]
    check_datasets(cfg)
    sizes = [len(DatasetCatalog.get(f"bccd_{split}")) for split in ("train", "val", "test")]
    assert sizes == [205, 87, 72]
    assert MetadataCatalog.get("bccd_train").thing_classes == ["RBC", "WBC", "Platelets"]
    dropped = [text for text in warnings_of() if "boxes dropped (no width or height)" in text]
    assert sum(int(text.split(": ")[1].split()[0]) for text in dropped) == 2
