"""Configs and models by name."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling.meta_arch.dense_detector import DenseDetector

from anchor_heads import get_cfg, model_zoo

CONFIGS = Path(__file__).parent.parent / "configs"


def test_every_model_is_listed_by_its_path_below_configs():
    names = model_zoo.list_configs()
    assert "free_anchor/free_anchor_R_50_FPN_1x.yaml" in names
    assert "quick_start/free_anchor.yaml" in names
    assert names == sorted(names)
    assert all((CONFIGS / name).is_file() for name in names)
    assert not any("Base-" in name for name in names)


@pytest.mark.parametrize("suffix", ["", ".yaml"])
def test_config_file_is_found_with_and_without_suffix(suffix):
    path = model_zoo.get_config_file("free_anchor/free_anchor_R_101_FPN_1.5x" + suffix)
    assert path == str(CONFIGS / "free_anchor/free_anchor_R_101_FPN_1.5x.yaml")


@pytest.mark.parametrize(
    "wrong, right",
    [
        ("free_anchor/free_anchor_R50_FPN_1x", "free_anchor/free_anchor_R_50_FPN_1x.yaml"),
        ("free_anchor_R_50_FPN_1x.yaml", "free_anchor/free_anchor_R_50_FPN_1x.yaml"),
    ],
)
def test_unknown_name_is_answered_with_similar_ones(wrong, right):
    with pytest.raises(ValueError, match=f"no config named '{wrong}'.*Similar names: .*{right}"):
        model_zoo.get_config_file(wrong)


@pytest.mark.parametrize("name", ["", "..", "../configs/quick_start/free_anchor", "no_such_thing"])
def test_only_names_below_configs_are_known(name):
    with pytest.raises(ValueError, match=r"list_configs\(\)"):
        model_zoo.get_config_file(name)


def test_config_is_the_merged_file_on_this_machines_device():
    cfg = model_zoo.get_config("free_anchor/free_anchor_R_50_FPN_1x")
    expected = get_cfg()
    expected.merge_from_file(str(CONFIGS / "free_anchor/free_anchor_R_50_FPN_1x.yaml"))
    expected.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    assert cfg == expected
    cfg.MODEL.WEIGHTS = "model.pth"  # not frozen


def test_overrides_are_keys_and_values_in_turn():
    overrides = ["MODEL.RETINANET.NUM_CLASSES", 7, "MODEL.DEVICE", "meta"]
    cfg = model_zoo.get_config("quick_start/free_anchor", overrides)
    assert cfg.MODEL.RETINANET.NUM_CLASSES == 7
    assert cfg.MODEL.DEVICE == "meta"


def test_model_is_built_with_the_overrides():
    model = model_zoo.get("quick_start/free_anchor", ["MODEL.RETINANET.NUM_CLASSES", 7])
    assert isinstance(model, DenseDetector)
    assert model.num_classes == 7
    assert model.training
