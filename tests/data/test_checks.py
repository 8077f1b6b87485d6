import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from anchor_heads import model_zoo
from anchor_heads.data.checks import check_datasets

BCCD = Path(__file__).resolve().parents[3] / "shared" / "data" / "bccd"


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


@pytest.mark.parametrize("architecture", ["PanopticFPN", "SemanticSegmentor"])
def test_models_of_semantic_segmentation(coco, save, config, architecture):
    save(coco)
    with pytest.raises(ValueError, match=f"{architecture} is for semantic segmentation, which"):
        check_datasets(config(train=["own"], classes=3, architecture=architecture))


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


def stored(*image_ids, ids="ids", logits="objectness_logits"):
    """A file of proposals without a proposal."""
    nothing = [np.zeros((0, 4))] * len(image_ids)
    return {ids: list(image_ids), "boxes": nothing, logits: [x[:, 0] for x in nothing]}


@pytest.fixture
def with_proposals(coco, save, config, tmp_path):
    """Makes the config of a model that takes proposals from files of the given contents."""

    def with_proposals(train, test):
        save(coco), save(coco, "test")
        cfg = config(train=["own"], test=["test"], architecture="GeneralizedRCNN")
        cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
        cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
        cfg.MODEL.LOAD_PROPOSALS = True
        for key, content in {"TRAIN": train, "TEST": test}.items():
            path = tmp_path / f"{key}.pkl"
            if content is not None:
                path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
            cfg.DATASETS[f"PROPOSAL_FILES_{key}"] = (str(path),)
        return cfg

    return with_proposals


def test_proposals_for_every_image_pass(with_proposals):
    """Ids may be text, there may be more of them, and Detectron's files have other names."""
    detectrons = stored(1, 3, 5, ids="indexes", logits="scores")
    check_datasets(with_proposals(stored("5", "3"), detectrons))


def test_a_missing_file_of_proposals(with_proposals, tmp_path):
    cfg = with_proposals(stored(3, 5), None)
    message = rf"PROPOSAL_FILES_TEST: {tmp_path}/TEST.pkl does not exist.* 'test' in DATASETS.TEST"
    for train in (True, False):
        with pytest.raises(FileNotFoundError, match=message):
            check_datasets(cfg, train=train)


ONE_BOX = [np.ones((1, 4))] * 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        [1, 2],
        {},
        {"ids": [3, 5]},
        {**stored(3, 5), "ids": [3, 4, 5]},
        {**stored(3, 5), "bbox_mode": 99},
        {**stored(3, 5), "bbox_mode": "XYXY"},
        {**stored(3, 5), "boxes": ONE_BOX},  # and no scores
        {**stored(3, 5), "boxes": [np.ones((1, 5))] * 2, "objectness_logits": [np.ones(1)] * 2},
        {**stored(3, 5), "boxes": [np.ones(4)] * 2, "objectness_logits": [np.ones(4)] * 2},
        {**stored(3, 5), "boxes": ONE_BOX, "objectness_logits": [np.full(1, np.nan)] * 2},
        {**stored(3, 5), "boxes": ["x", "y"]},
        {**stored(3, 5), "boxes": [None, None]},
    ],
)
def test_a_file_that_holds_no_proposals(with_proposals, content):
    cfg = with_proposals(content, stored(3, 5))
    with pytest.raises(ValueError, match="PROPOSAL_FILES_TRAIN: .*TRAIN.pkl is not a file of prop"):
        check_datasets(cfg)
    check_datasets(cfg, train=False)


def test_images_without_stored_proposals(with_proposals):
    cfg = with_proposals(stored(3, 4), stored(3, 5))
    message = "nothing for 1 of 2 images of data set 'own', the first with the id 5"
    with pytest.raises(ValueError, match=message):
        check_datasets(cfg)


def test_a_file_of_proposals_for_each_data_set(with_proposals):
    cfg = with_proposals(stored(3, 5), stored(3, 5))
    cfg.DATASETS.PROPOSAL_FILES_TEST = ()
    message = "PROPOSAL_FILES_TEST names 0 files and DATASETS.TEST 1 data sets"
    with pytest.raises(ValueError, match=message):
        check_datasets(cfg)


def test_precomputed_proposals_have_to_be_loaded(with_proposals):
    cfg = with_proposals(stored(3, 5), stored(3, 5))
    cfg.MODEL.LOAD_PROPOSALS = False
    with pytest.raises(ValueError, match="set MODEL.LOAD_PROPOSALS True"):
        check_datasets(cfg)


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


@pytest.mark.parametrize("format", ["L", "YUV-BT.601", "RGBA"])
def test_models_of_other_channels_are_refused(coco, save, config, format):
    save(coco)
    cfg = config(train=["own"])
    cfg.INPUT.FORMAT = format
    with pytest.raises(ValueError, match=f"INPUT.FORMAT is '{format}'.* set INPUT.FORMAT BGR"):
        check_datasets(cfg)


def test_image_files_are_checked(coco, save, config, tmp_path):
    json_file = save(coco)
    cfg = config(train=["own"], test=["own"])
    five, three = (tmp_path / "images" / name for name in ("five.jpg", "sub/three.jpg"))
    content = five.read_bytes()
    five.write_bytes(b"")
    with pytest.raises(OSError) as error:
        check_datasets(cfg)
    assert f"{json_file}: 1 of 2 image files cannot be used, first: {five}: it is empty" in str(
        error.value
    )
    five.write_bytes(content)
    shutil.copy(five, three)
    with pytest.raises(OSError) as error:
        check_datasets(cfg)
    assert f"1 of 2 images have another size, first: {three} has 40x30 pixels, and its anno" in str(
        error.value
    )
    cfg.DATASETS.CHECK_IMAGES = False
    check_datasets(cfg)


def test_proposal_files_run_no_code(with_proposals, tmp_path):
    class Planted:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "planted"),)

    content = {**stored(3, 5), "made_by": Planted()}
    cfg = with_proposals(content, stored(3, 5))
    with pytest.raises(ValueError, match=r"TRAIN\.pkl asks for posix\.mkdir, .*nothing was loaded"):
        check_datasets(cfg)
    assert not (tmp_path / "planted").exists()


def test_masks_of_run_lengths_need_bitmasks(coco, save, config):
    for annotation in coco["annotations"]:
        annotation["segmentation"] = {"size": [30, 40], "counts": [0, 1200]}
    coco["annotations"][2]["segmentation"] = [[0, 0, 9, 0, 9, 9]]
    save(coco)
    cfg = config(train=["own"])
    cfg.MODEL.MASK_ON = True
    message = "2 of 3 masks of data set 'own' are run-length codes, .*set INPUT.MASK_FORMAT bitmask"
    with pytest.raises(ValueError, match=message):
        check_datasets(cfg)
    cfg.INPUT.MASK_FORMAT = "bitmask"
    check_datasets(cfg)


def test_keypoints_fit_the_model(coco, save, config, warnings_of):
    cfg = config(train=["own"])
    cfg.MODEL.KEYPOINT_ON = True
    save(coco)
    with pytest.raises(ValueError, match="3 of 3 objects of data set 'own' have no keypoints"):
        check_datasets(cfg)
    coco["annotations"][0]["keypoints"] = [3, 4, 2, 8, 9, 1]
    save(coco, "points")
    cfg = config(train=["points"])
    cfg.MODEL.KEYPOINT_ON = True
    with pytest.raises(ValueError, match="NUM_KEYPOINTS is 17, but .* have 2 .1, 2.. Write MODEL"):
        check_datasets(cfg)
    cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS = 2
    check_datasets(cfg)
    assert any("not named as pairs of left and right" in text for text in warnings_of())


def test_voc_without_its_folder(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = config(test=["voc_2007_test"], listed=[], classes=20)
    message = r"'voc_2007_test': .*VOC2007 does not exist.* variable DETECTRON2_DATASETS"
    with pytest.raises(FileNotFoundError, match=message):
        check_datasets(cfg, train=False)


def test_the_quick_start_without_its_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = model_zoo.get_config("quick_start/free_anchor")
    command = "Make it with: python -m anchor_heads.data.shapes datasets/shapes"
    with pytest.raises(FileNotFoundError, match=f"'shapes_train': there is no .*{command}"):
        check_datasets(cfg)


@pytest.mark.parametrize(
    "files, found",
    [
        (["Annotations/1.xml", "JPEGImages/1.jpg"], "Pascal VOC"),
        (["Annotations/1.xml", "ImageSets/Main/train.txt"], "Pascal VOC"),
        (["1.xml"], "Pascal VOC"),
        (["data.yaml", "train/images/1.jpg"], "YOLO"),
        (["labels/train/1.txt"], "YOLO"),
        (["data.yaml", "train/labels/1.txt"], "YOLO"),
        (["1.jpg"], None),
    ],
)
def test_folders_of_other_formats(coco, save, config, tmp_path, files, found):
    save(coco)
    for file in files:
        path = tmp_path / "other" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    cfg = config(train=["own"])
    inner = ("Annotations/1.xml", "ImageSets/Main/train.txt", "train/labels")
    inner = [x for x in inner if (tmp_path / "other" / x).exists()]
    for path in ("other", *(f"other/{x}" for x in inner)):
        cfg.DATASETS.COCO_FORMAT = [("other", str(tmp_path / path), str(tmp_path))]
        cfg.DATASETS.TRAIN = ("other",)
        command = f"anchor-heads convert-dataset {tmp_path / 'other'} OUTPUT"
        message = f"annotations of {found}. Convert them with: {command}" if found else "a folder"
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            check_datasets(cfg)
        DatasetCatalog.pop("other"), MetadataCatalog.pop("other")
