"""The classes that a config has noted."""

import pytest
from detectron2.data import MetadataCatalog

from anchor_heads import get_cfg
from anchor_heads.data.class_names import forget_recalled_classes, recall_classes


@pytest.fixture
def name():
    return "gone"


def config_of(name, classes=("red", "white"), ids=(3, 7)):
    cfg = get_cfg()
    cfg.DATASETS.TEST = (name,)
    cfg.MODEL.CLASS_NAMES, cfg.MODEL.CATEGORY_IDS = list(classes), list(ids)
    return cfg


def test_a_config_file_gives_names_to_data_that_are_gone(tmp_path, name):
    (tmp_path / "config.yaml").write_text(config_of(name).dump())
    get_cfg().merge_from_file(str(tmp_path / "config.yaml"))
    metadata = MetadataCatalog.get(name)
    assert metadata.thing_classes == ["red", "white"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}


def test_a_data_set_that_is_there_keeps_its_own(name):
    MetadataCatalog.get(name).thing_classes = ["blue"]
    recall_classes(config_of(name))
    assert MetadataCatalog.get(name).thing_classes == ["blue"]


def test_a_data_set_that_comes_back_replaces_them(name):
    MetadataCatalog.get(name).json_file = "x.json"
    recall_classes(config_of(name))
    forget_recalled_classes(name)
    metadata = MetadataCatalog.get(name)
    metadata.set(thing_classes=["blue"])
    assert (metadata.json_file, metadata.thing_classes) == ("x.json", ["blue"])
    forget_recalled_classes(name)
    assert MetadataCatalog.get(name).thing_classes == ["blue"]
