import json
import runpy
import sys

import cv2
import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from tiny_run import REPOSITORY, write_config
from torch import nn

from anchor_heads import benchmark, get_cfg
from anchor_heads.benchmark import (
    blobs,
    build_timed_model,
    compare,
    given_locations,
    make_image,
    mean_blob_cells,
    table,
    take_turns,
)

RPN = ["MODEL.PROPOSAL_GENERATOR.NAME", "RPN"]
GUIDED_RPN = ["MODEL.PROPOSAL_GENERATOR.NAME", "GuidedAnchorRPN"]


def tiny_config(folder, *args):
    folder.mkdir()
    cfg = get_cfg()
    cfg.merge_from_file(write_config(folder, *args))
    return cfg


@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("size", [(100, 152), (13, 19), (7, 1)])
def test_blobs_have_the_share_of_cells(size, share):
    wanted = blobs(size, share)
    assert wanted.shape == size and wanted.dtype == torch.bool
    assert wanted.sum() == max(1, round(share * size[0] * size[1]))
    assert wanted.equal(blobs(size, share))


def test_blobs_are_compact():
    wanted = blobs((100, 152), 0.02)
    assert not wanted.equal(blobs((100, 152), 0.02, seed=1))
    assert 8 < mean_blob_cells([wanted]) < 12
    # A 3x3 square lies in the surroundings of 25 cells, nine single cells in those of 81.
    read = cv2.dilate(wanted.numpy().astype(np.uint8), np.ones((3, 3), np.uint8)).sum()
    assert read < 3 * wanted.sum()


def test_mean_blob_cells_counts_connected_parts():
    first, second = torch.zeros(4, 4, dtype=torch.bool), torch.zeros(1, 3, dtype=torch.bool)
    first[0, 0] = first[1, 1] = first[3, 3] = True  # the first two touch
    second[0, :2] = True
    assert mean_blob_cells([first, second]) == pytest.approx(5 / 3)


def test_given_locations_pass_and_leave():
    head = nn.Module()
    branch = head.conv_loc = nn.Conv2d(4, 1, kernel_size=1)
    with given_locations(head, 0.1) as locations:
        for size in [(20, 30), (10, 15), (20, 30)]:
            probability = head.conv_loc(torch.randn(2, 4, *size)).sigmoid()
            assert probability.shape == (2, 1, *size)
            expected = blobs(size, 0.1).float().expand(2, 1, -1, -1)
            assert torch.allclose(probability, expected, atol=1e-4)
        assert set(locations.maps) == {(20, 30), (10, 15)}
    assert head.conv_loc is branch
    with pytest.raises(RuntimeError, match="stop"), given_locations(head, 0.1):
        raise RuntimeError("stop")
    assert head.conv_loc is branch


def test_calls_take_turns(monkeypatch):
    clock = iter(x * x for x in range(100))
    monkeypatch.setattr(benchmark, "timer", lambda: next(clock))
    called = []
    seconds = take_turns({name: lambda x=name: called.append(x) for name in "ab"}, repeats=2)
    assert "".join(called) == "ab" * (benchmark.WARMUP_TURNS + 2)
    # Two turns of three looks at the clock to warm up; then it says 36, 49, 64 and 81, 100, 121.
    assert seconds["a"].tolist() == [13, 19] and seconds["b"].tolist() == [15, 21]


def test_input_of_random_weights_is_scaled(tmp_path):
    cfg = tiny_config(tmp_path / "random", "RetinaNet")
    image = make_image(64, 96)
    model = build_timed_model(cfg, image)
    assert not model.training
    pixels = model.preprocess_image([{"image": image}]).tensor
    with torch.no_grad():
        deviation = model.backbone(pixels)["p3"].std().item()
    assert deviation == pytest.approx(benchmark.FEATURE_SCALE, rel=1e-3)

    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    weights = build_model(cfg).state_dict()
    torch.save({"model": weights}, cfg.MODEL.WEIGHTS)
    model = build_timed_model(cfg, image)
    assert model.pixel_std.flatten().tolist() == cfg.MODEL.PIXEL_STD
    assert all(x.equal(weights[name]) for name, x in model.state_dict().items())


@pytest.mark.parametrize(
    "guided, plain",
    [
        (["GuidedAnchorRetinaNet"], ["RetinaNet"]),
        (["ProposalNetwork", GUIDED_RPN], ["ProposalNetwork", RPN]),
        (["GeneralizedRCNN", GUIDED_RPN], ["GeneralizedRCNN", RPN]),
    ],
)
def test_parts_of_a_model_with_a_location_filter(tmp_path, guided, plain):
    image = make_image(128, 160)
    model = build_timed_model(tiny_config(tmp_path / "guided", *guided), image)
    baseline = build_timed_model(tiny_config(tmp_path / "plain", *plain), image)
    modules = dict(model.named_modules())
    weights = {name: x.clone() for name, x in model.state_dict().items()}

    runs = compare({"model": model, "baseline": baseline}, image, [0.1, 0.5], repeats=3)
    assert [run["kept"] for run in runs] == [0.1, 0.5]
    assert 1 <= runs[0]["mean_blob_cells"] < runs[1]["mean_blob_cells"]
    for run in runs:
        assert list(run["seconds"]) == [
            *("model", "baseline", "backbone", "guide", "judging", "judging, dense")
        ]
        for value in [*run["seconds"].values(), *run["ratios"].values()]:
            assert len(value["turns"]) == 3 and min(value["turns"]) > 0
            low, median, high = value["quartiles"]
            assert low <= median <= high and median == sorted(value["turns"])[1]
        assert run["largest_difference"] < 1e-5
    turns = {name: np.array(x["turns"]) for name, x in runs[0]["seconds"].items()}
    guide, sparse, dense = turns["guide"], turns["judging"], turns["judging, dense"]
    for name, ratio in {
        "model / baseline": turns["model"] / turns["baseline"],
        "judging, sparse / dense": sparse / dense,
        "head, sparse / dense": (guide + sparse) / (guide + dense),
    }.items():
        assert runs[0]["ratios"][name]["turns"] == pytest.approx(ratio.tolist())

    after = dict(model.named_modules())
    assert list(after) == list(modules) and all(after[name] is modules[name] for name in modules)
    assert all(x.equal(weights[name]) for name, x in model.state_dict().items())


def test_a_wrong_sparse_path_shows_in_the_largest_difference(tmp_path, monkeypatch):
    image = make_image(64, 96)
    model = build_timed_model(tiny_config(tmp_path / "guided", "GuidedAnchorRetinaNet"), image)
    predict_at = model.head.predict_at

    def wrong(guide, locations):
        logits, deltas = predict_at(guide, locations)
        return logits, deltas + 0.001

    monkeypatch.setattr(model.head, "predict_at", wrong)
    (run,) = compare({"model": model}, image, [0.1], repeats=1)
    assert run["largest_difference"] == pytest.approx(0.001, rel=0.02)


def test_models_without_a_location_filter_are_timed_once(tmp_path):
    image = make_image(64, 96)
    models = {
        name: build_timed_model(tiny_config(tmp_path / name, name), image)
        for name in ("FreeAnchorRetinaNet", "RetinaNet")
    }
    (run,) = compare(models, image, [0.1, 0.5], repeats=1)
    assert list(run["seconds"]) == ["FreeAnchorRetinaNet", "RetinaNet", "backbone", "head"]
    assert list(run["ratios"]) == ["FreeAnchorRetinaNet / RetinaNet"]
    assert "kept" not in run and "largest_difference" not in run
    assert table([run]).startswith("|  | median |\n| --- | --- |\n| FreeAnchorRetinaNet, ms | ")


def test_deformable_convolutions_of_a_head_are_a_part(tmp_path):
    """Beside two models, of which one has a location filter."""
    image = make_image(64, 96)
    models = {
        name: build_timed_model(tiny_config(tmp_path / name, name), image)
        for name in ("DynamicAnchorRetinaNet", "RetinaNet", "GuidedAnchorRetinaNet")
    }
    runs = compare(models, image, [0.1, 0.5], repeats=1)
    assert [run["kept"] for run in runs] == [0.1, 0.5]
    for run in runs:
        seconds = {name: x["turns"][0] for name, x in run["seconds"].items()}
        ratios = {name: x["turns"][0] for name, x in run["ratios"].items()}
        assert [*seconds] == [*models, "backbone", "head", "deformable convolutions"]
        ours = seconds["DynamicAnchorRetinaNet"]
        assert ratios == pytest.approx(
            {
                "DynamicAnchorRetinaNet / RetinaNet": ours / seconds["RetinaNet"],
                "DynamicAnchorRetinaNet / GuidedAnchorRetinaNet": ours
                / seconds["GuidedAnchorRetinaNet"],
                "deformable convolutions / DynamicAnchorRetinaNet": seconds[
                    "deformable convolutions"
                ]
                / ours,
            }
        )
    # Two layers, on three levels.
    head = models["DynamicAnchorRetinaNet"].head
    calls = benchmark._deformable_convolutions(head, [torch.zeros(1, 16, 4, 6)] * 3)()
    assert len(calls) == 6 and not any(layer._forward_pre_hooks for layer in head.modules())


def test_table_has_a_column_per_share():
    def summary(median):
        return {"quartiles": [median / 2, median, median * 2], "turns": [median]}

    runs = [
        {
            "kept": share,
            "mean_blob_cells": 9.04,
            "boxes": {"model": 7, "baseline": 8},
            "seconds": {"model": summary(share), "baseline": summary(0.5)},
            "ratios": {"model / baseline": summary(2 * share)},
            "largest_difference": 2e-7,
        }
        for share in (0.02, 0.125)
    ]
    assert table(runs).splitlines() == [
        "|  | 2 % of the locations | 12.5 % of the locations |",
        "| --- | --- | --- |",
        "| cells per blob | 9.0 | 9.0 |",
        "| model, ms | 20.0 | 125.0 |",
        "| baseline, ms | 500.0 | 500.0 |",
        "| boxes of the model | 7 | 7 |",
        "| boxes of the baseline | 8 | 8 |",
        "| model / baseline (quartiles) | 0.040 (0.020 to 0.080) | 0.250 (0.125 to 0.500) |",
        "| largest difference | 2.0e-07 | 2.0e-07 |",
    ]


def run_tool(monkeypatch, *command_line):
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *map(str, command_line)])
    runpy.run_path(str(REPOSITORY / "tools/benchmark.py"), run_name="__main__")


def test_benchmark_prints_a_table_and_writes_json(tmp_path, monkeypatch, capsys):
    tiny_config(tmp_path / "guided", "GuidedAnchorRetinaNet")
    tiny_config(tmp_path / "plain", "RetinaNet")
    files = [tmp_path / name / "config.yaml" for name in ("guided", "plain")]
    output = tmp_path / "times.json"
    options = ["--config-file", files[0], "--baseline", files[1], "--image-size", 64, 96]
    options += ["--kept", 0.1, 0.5, "--repeats", 2, "--threads", 1, "--output", output]
    run_tool(monkeypatch, *options, "MODEL.FPN.OUT_CHANNELS", 32)

    report = json.loads(output.read_text())
    assert report["arguments"]["image_size"] == [64, 96]
    assert report["arguments"]["opts"] == ["MODEL.FPN.OUT_CHANNELS", "32"]
    assert report["torch"] == torch.__version__ and report["device"] == "cpu"
    assert report["threads"] == 1 and report["cpu"] and report["date"].endswith("+00:00")
    assert [run["kept"] for run in report["runs"]] == [0.1, 0.5]
    said = capsys.readouterr().out
    assert table(report["runs"]) in said
    assert f"{files[0]} beside {files[1]}: one image of 64x96, 2 turns, cpu, 1 threads" in said


def test_benchmark_fails_where_both_paths_differ(tmp_path, monkeypatch, capsys):
    tiny_config(tmp_path / "guided", "GuidedAnchorRetinaNet")
    config = tmp_path / "guided/config.yaml"
    options = ["--config-file", config, "--baseline", config, "--image-size", 64, 96]
    monkeypatch.setattr(benchmark, "_largest_difference", lambda sparse, dense: 1.1e-5)
    with pytest.raises(SystemExit, match="the dense path differ by 1.1e-05"):
        run_tool(monkeypatch, *options, "--kept", 0.1, "--repeats", 1, "--threads", 1)
    assert "| largest difference | 1.1e-05 |" in capsys.readouterr().out


@pytest.mark.parametrize("share", ["0", "1.5", "MODEL.DEVICE"])
def test_benchmark_refuses_what_is_no_share(monkeypatch, capsys, share):
    with pytest.raises(SystemExit):
        run_tool(monkeypatch, "--kept", share)
    assert "--kept" in capsys.readouterr().err
