"""The tool, on tiny models with random weights."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from tiny_run import write_config, write_data_set

from anchor_heads import get_cfg
from anchor_heads.analysis.comparison.measure import ComparedModel
from anchor_heads.analysis.comparison.run import read_measurements
from anchor_heads.analysis.reports import model_names
from anchor_heads.cli import main


def write_models(folder, **architectures):
    """A data set, and a config and weights for each architecture.

    Returns:
        list[str]: the options that name them.
    """
    write_data_set(folder, num_images=6, empty=(2,))
    configs, weights = [], []
    for name, architecture in architectures.items():
        overrides = ["MODEL.PROPOSAL_GENERATOR.NAME", "GuidedAnchorRPN"]
        config = Path(write_config(folder, architecture, overrides)).rename(folder / f"{name}.yaml")
        cfg = get_cfg()
        cfg.merge_from_file(str(config))
        torch.manual_seed(1)  # not those that the tool starts from
        torch.save({"model": build_model(cfg).state_dict()}, folder / f"{name}.pth")
        configs.append(str(config))
        weights.append(str(folder / f"{name}.pth"))
    return ["--config-file", *configs, "--weights", *weights]


def compare_anchors(*command_line):
    main.run("compare", [*map(str, command_line)])


def without_times(report):
    models = [{k: v for k, v in x.items() if k != "seconds_per_image"} for x in report["models"]]
    return {**report, "date": "", "models": models}


def measured_ids(output):
    files = sorted((output / "measured").glob("*.jsonl"))
    return {file.name.rsplit("-", 1)[0]: list(read_measurements(file)) for file in files}


def stop_after(monkeypatch, number):
    """Let a comparison be stopped when so many images of models are measured."""
    calls = iter(range(number))
    original = ComparedModel.measure

    def measure(self, image):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return original(self, image)

    monkeypatch.setattr(ComparedModel, "measure", measure)


def test_a_stopped_comparison_goes_on_to_the_same_result(tmp_path, monkeypatch, capsys):
    models = write_models(tmp_path, ga="GuidedAnchorRetinaNet", rcnn="GeneralizedRCNN")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    compare_anchors(*models, "--output", whole, "--pictures", 2)
    said = capsys.readouterr()
    assert "6/6" in said.err and f"{whole}/comparison.html" in said.out
    assert [x.split()[1] for x in said.out.splitlines()[2:4]] == ["ga", "rcnn"]  # of the table

    with monkeypatch.context() as patch:
        stop_after(patch, 2 + 5)  # both are warmed up first
        with pytest.raises(KeyboardInterrupt):
            compare_anchors(*models, "--output", parts, "--pictures", 2)
    assert measured_ids(parts) == {"ga": [0, 1, 2], "rcnn": [0, 1]}
    assert not (parts / "comparison.json").exists()
    with monkeypatch.context() as patch:
        stop_after(patch, 2 + 7)  # all that was not measured, and nothing again
        compare_anchors(*models, "--output", parts, "--pictures", 2)
    assert measured_ids(parts) == {"ga": list(range(6)), "rcnn": list(range(6))}

    reports = [json.loads((x / "comparison.json").read_text()) for x in (whole, parts)]
    assert without_times(reports[0]) == without_times(reports[1])
    ga, rcnn = reports[0]["models"]
    assert (ga["name"], rcnn["name"]) == ("ga", "rcnn")
    assert ga["nms_recall"] and rcnn["nms_recall"] is None
    assert list(rcnn["recall"]) == ["anchors", "proposals", "detections"]
    assert ga["head_is_trained"] and ga["parameters"] > 1000 and ga["multiply_adds"] > 1000
    data_set = reports[0]["data_set"]
    assert data_set["images"] == 6 and data_set["images_without_objects"] == 1
    page = (parts / "comparison.html").read_text()
    assert page.count("data:image/jpeg") == 2 * 2 * 2  # images, models, pictures of each


def test_more_images_are_added_to_the_first(tmp_path):
    options = [*write_models(tmp_path, one="RetinaNet"), "--output", tmp_path / "out"]
    options += ["--pictures", 0]
    compare_anchors(*options, "--images", 2, "MODEL.RPN.NMS_THRESH", 0.6)
    with pytest.raises(FileExistsError, match="comparison.json.* --force"):
        compare_anchors(*options, "--images", 4, "MODEL.RPN.NMS_THRESH", 0.6)
    compare_anchors(*options, "--images", 4, "--force", "MODEL.RPN.NMS_THRESH", 0.6)
    report = json.loads((tmp_path / "out/comparison.json").read_text())
    assert report["data_set"]["images"] == 4
    assert measured_ids(tmp_path / "out") == {"one": [0, 1, 2, 3]}
    # Another setting is another measurement.
    compare_anchors(*options, "--images", 1, "--force", "MODEL.RPN.NMS_THRESH", 0.5)
    assert len(list((tmp_path / "out/measured").iterdir())) == 2


def test_models_without_weights_are_named(tmp_path):
    options = write_models(tmp_path, one="RetinaNet")[:2]
    compare_anchors(*options, "--output", tmp_path / "out", "--images", 1, "MODEL.DEVICE", "cpu")
    page = (tmp_path / "out/comparison.html").read_text()
    assert "one is not trained" in page and "none)" in page


def test_mistakes_are_named_before_anything_is_measured(tmp_path):
    models = write_models(tmp_path, one="RetinaNet", two="RetinaNet")
    with pytest.raises(ValueError, match="--weights must name as many files"):
        compare_anchors(*models, "one_more.pth")
    with pytest.raises(SystemExit, match="2"):  # of the command line: at least 1
        compare_anchors(*models, "--images", 0)
    out = ["--output", tmp_path / "out"]
    with pytest.raises(ValueError, match="no config key MODLE.DEVICE. Similar keys: MODEL.DEVICE"):
        compare_anchors(*models, *out, "MODLE.DEVICE", "cpu")
    with pytest.raises(ValueError, match="on one data set. DATASETS.TEST is .*'a', 'b'"):
        compare_anchors(*models, *out, "DATASETS.TEST", "('a', 'b')")
    with pytest.raises(FileNotFoundError, match="no.pth"):
        compare_anchors(*models[:-1], tmp_path / "no.pth", *out)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:100])
    with pytest.raises(OSError, match="Cannot read the image .*1.png"):
        compare_anchors(*models, *out)
    assert measured_ids(tmp_path / "out") == {"one": [0], "two": [0]}


def test_a_data_set_without_objects_is_refused(tmp_path):
    models = write_models(tmp_path, one="RetinaNet")
    content = json.loads((tmp_path / "annotations.json").read_text())
    content["annotations"] = [x | {"iscrowd": 1} for x in content["annotations"]]
    (tmp_path / "annotations.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="None of the 6 images .* has an annotated object"):
        compare_anchors(*models, "--output", tmp_path / "out")


def test_models_have_different_names():
    files = [
        "runs/a/config.yaml",
        "quick_start/retinanet",
        "b/retinanet.yaml",
        "runs/b/config.yaml",
    ]
    assert model_names(files) == ["a", "retinanet", "retinanet_2", "b"]
    numbered_by_hand = ["retinanet.yaml", "retinanet/config.yaml", "retinanet_2/config.yaml"]
    assert model_names(numbered_by_hand) == ["retinanet", "retinanet_2", "retinanet_2_2"]
