import json

import pytest
import torch
from tiny_models import tiny_config

from anchor_heads.analysis.benchmark import compare as compare_module
from anchor_heads.analysis.benchmark.report import describe
from anchor_heads.cli import main


def run_tool(monkeypatch, *command_line):
    main.run("benchmark", [*map(str, command_line)])


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Two tiny models, timed quickly. Their memory is measured elsewhere."""
    monkeypatch.setattr(
        compare_module,
        "peak_memory",
        lambda cfg, workloads: [{"whole": int(1e6 * x.num_objects)} for x in workloads],
    )
    tiny_config(tmp_path / "guided", "GuidedAnchorRetinaNet")
    tiny_config(tmp_path / "plain", "RetinaNet")
    files = [tmp_path / name / "config.yaml" for name in ("guided", "plain")]
    options = ["--config-file", files[0], files[1], "--image-size", 64, 96]
    return [*options, "--repeats", 2, "--threads", 1]


def test_benchmark_of_training_prints_a_table_and_writes_json(
    tmp_path, options, monkeypatch, capsys
):
    output = tmp_path / "folder/times.json"
    options += ["--training", "--objects", 1, 3, "--output", output]
    run_tool(monkeypatch, *options, "MODEL.FPN.OUT_CHANNELS", 32)

    report = json.loads(output.read_text())
    assert report["arguments"]["image_size"] == [64, 96]
    assert report["arguments"]["opts"] == ["MODEL.FPN.OUT_CHANNELS", "32"]
    assert report["command"].endswith("MODEL.FPN.OUT_CHANNELS 32")
    assert report["torch"] == torch.__version__ and report["threads"] == 1
    assert [run["objects"] for run in report["runs"]] == [1, 3]
    for run in report["runs"]:
        assert run["seconds"].keys() == {"guided", "plain"}
    said = capsys.readouterr().out
    assert said == describe(report) + "\n"
    assert said.count("| 3 | 3 |\n") == 1  # of the whole, with three objects


def test_benchmark_fails_where_both_ways_to_judge_differ(options, monkeypatch, capsys):
    monkeypatch.setattr(compare_module, "_largest_difference", lambda sparse, dense: 1.1e-5)
    monkeypatch.setattr(compare_module, "peak_memory", lambda cfg, workloads: None)
    with pytest.raises(RuntimeError, match="judging all differ by 1.1e-05"):
        run_tool(monkeypatch, *options, "--kept", 0.1, 0.5)
    said = capsys.readouterr().out
    assert "| 10 % | whole | " in said and "| 50 % | head: guide | " in said
    assert "largest difference of guided 1.1e-05" in said and "MB" not in said


@pytest.mark.parametrize("share", ["0", "1.5", "MODEL.DEVICE"])
def test_benchmark_refuses_what_is_no_share(monkeypatch, capsys, share):
    with pytest.raises(SystemExit):
        run_tool(monkeypatch, "quick_start/retinanet", "--kept", share)
    assert "--kept" in capsys.readouterr().err
