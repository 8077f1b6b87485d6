"""Config files: found by path or name, read without running code."""

from operator import attrgetter

import pytest
import yaml
from detectron2 import model_zoo as detectron2_model_zoo
from detectron2.config import CfgNode

from anchor_heads import get_cfg


def merged(path, text):
    path.write_text(text)
    cfg = get_cfg()
    cfg.merge_from_file(str(path))
    return cfg


@pytest.mark.parametrize("base", ["quick_start/free_anchor", "quick_start/free_anchor.yaml"])
def test_a_base_by_shipped_name(tmp_path, base):
    cfg = merged(tmp_path / "mine.yaml", f"_BASE_: {base}\nSOLVER: {{MAX_ITER: 7}}")
    assert cfg.MODEL.META_ARCHITECTURE == "FreeAnchorRetinaNet"
    assert (cfg.SOLVER.MAX_ITER, cfg.SOLVER.OPTIMIZER) == (7, "AdamW")


def test_a_base_beside_the_file_goes_before_a_shipped_one(tmp_path):
    (tmp_path / "quick_start").mkdir()
    (tmp_path / "quick_start/free_anchor").write_text("SEED: 5")
    cfg = merged(tmp_path / "mine.yaml", "_BASE_: quick_start/free_anchor")
    assert (cfg.SEED, cfg.SOLVER.OPTIMIZER) == (5, "SGD")


FLOATS = {"SOLVER.MAX_EPOCHS": 12, "INPUT.MOSAIC": 1, "SOLVER.BASE_LR": 0, "SOLVER.GAMMA": -1}


@pytest.mark.parametrize("as_written", [int, str])
def test_whole_numbers_are_taken_for_floats(tmp_path, as_written):
    values = {key: as_written(value) for key, value in FLOATS.items()}
    from_list = get_cfg()
    from_list.merge_from_list([x for pair in values.items() for x in pair])
    nested = {"SOLVER": {}, "INPUT": {}}
    for key, value in values.items():
        group, name = key.split(".")
        nested[group][name] = value
    for cfg in (from_list, merged(tmp_path / "mine.yaml", yaml.safe_dump(nested))):
        for key, value in FLOATS.items():
            found = attrgetter(key)(cfg)
            assert (type(found), found) == (float, value), key
        assert "MAX_EPOCHS: 12.0" in cfg.dump()
    assert nested["SOLVER"]["MAX_EPOCHS"] == as_written(12)  # as it was given


@pytest.mark.parametrize("value", ["True", "abc", "[1]", True])
def test_only_numbers_are_taken_for_floats(tmp_path, value):
    with pytest.raises(ValueError, match="MAX_EPOCHS"):
        get_cfg().merge_from_list(["SOLVER.MAX_EPOCHS", value])
    with pytest.raises(ValueError, match="MAX_EPOCHS is of the wrong type"):
        merged(tmp_path / "mine.yaml", f"SOLVER: {{MAX_EPOCHS: {value}}}")


@pytest.mark.parametrize("key", ["SOLVER.NOTHING", "SOLVER.STEPS.X", "NOTHING.X"])
def test_keys_that_there_are_not(key):
    with pytest.raises(AssertionError, match=f"Non-existent key: {key}"):
        get_cfg().merge_from_list([key, 1])


def test_several_bases_and_a_shipped_name_to_merge(tmp_path):
    (tmp_path / "a.yaml").write_text("SEED: 1\nSOLVER: {MAX_ITER: 5}")
    (tmp_path / "b.yaml").write_text("SOLVER: {MAX_ITER: 6}")
    cfg = merged(tmp_path / "mine.yaml", "_BASE_: [a.yaml, b.yaml]")
    assert (cfg.SEED, cfg.SOLVER.MAX_ITER) == (1, 6)
    cfg.merge_from_file("quick_start/free_anchor")
    assert cfg.SOLVER.OPTIMIZER == "AdamW"


@pytest.mark.parametrize(
    "text, error, message",
    [
        ("_BASE_: nowhere.yaml", FileNotFoundError, "_BASE_ names .*nowhere.yaml, which is no"),
        ("_BASE_: mine.yaml", ValueError, "mine.yaml: _BASE_ leads back to this file"),
        ("", ValueError, "mine.yaml is not a config: it has no keys"),
        ("[1, 2]", ValueError, "mine.yaml is not a config"),
        ("a: [", ValueError, "mine.yaml is not a YAML file"),
        ("_BASE_: quick_start/free_anchor\nSEED: {A: 1}", ValueError, "SEED has keys below it"),
    ],
)
def test_files_that_are_no_configs(tmp_path, text, error, message):
    with pytest.raises(error, match=message):
        merged(tmp_path / "mine.yaml", text)


def test_a_python_config_where_none_is_taken(tmp_path):
    with pytest.raises(ValueError, match="mine.py is a Python config, which only train and eval"):
        merged(tmp_path / "mine.py", "model = None")


@pytest.mark.parametrize("tag", ["apply:os.system", "apply:eval", "apply:subprocess.check_output"])
def test_a_planted_command_is_not_run(tmp_path, tag):
    planted = tmp_path / "planted"
    command = f"touch {planted}" if "eval" not in tag else f"open('{planted}', 'w')"
    text = f'OUTPUT_DIR: !!python/object/{tag} ["{command}"]'
    for content in (text, "_BASE_: bad.yaml"):
        with pytest.raises(ValueError, match=r"bad.yaml has a YAML tag .* \(line 1\)"):
            (tmp_path / "bad.yaml").write_text(text)
            merged(tmp_path / ("bad.yaml" if content == text else "mine.yaml"), content)
    assert not planted.exists()


def test_detectron2s_own_configs_are_read():
    """Its RetinaNets compute their anchor sizes by a tag that evaluates Python."""
    path = detectron2_model_zoo.get_config_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    ours, theirs = get_cfg(), get_cfg()
    ours.merge_from_file(path)
    CfgNode.merge_from_file(theirs, path, allow_unsafe=True)
    assert ours == theirs
    assert ours.MODEL.ANCHOR_GENERATOR.SIZES[0] == [32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)]


def test_nodes_of_other_packages_are_merged(tmp_path):
    cfg = get_cfg()
    node = cfg.MODEL.POINT_HEAD = CfgNode()
    node.NUM_FC = 3
    (tmp_path / "mine.yaml").write_text("MODEL: {POINT_HEAD: {NUM_FC: 4}}")
    cfg.merge_from_file(str(tmp_path / "mine.yaml"))
    cfg.merge_from_list(["MODEL.POINT_HEAD.NUM_FC", 5])
    assert cfg.MODEL.POINT_HEAD.NUM_FC == 5
