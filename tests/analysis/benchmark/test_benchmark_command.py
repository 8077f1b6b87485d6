import json

import pytest
import torch
from tiny_models import tiny_config

from anchor_heads.analysis.benchmark import measure as measure_module
from anchor_heads.analysis.benchmark.report import describe
from anchor_heads.cli import main


def run_benchmark(*command_line):
    main.run("benchmark", [*map(str, command_line)])


def test_it_prints_tables_and_writes_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        measure_module, "peak_memory", lambda cfg, workloads, modules: [None] * len(workloads)
    )
    for name in ("GuidedAnchorRetinaNet", "RetinaNet"):
        tiny_config(tmp_path / name, name)
    files = [tmp_path / name / "config.yaml" for name in ("RetinaNet", "GuidedAnchorRetinaNet")]
    output = tmp_path / "folder/times.json"
    options = ["--task", "inference", "training", "--batch-size", 1, 2, "--kept", 0.1, 0.5]
    options += ["--objects", 3, "--dtype", "float32", "bfloat16", "--image-size", 64, 96]
    options += ["--repeats", 2, "--threads", 1, "--output", output]
    run_benchmark("--config-file", *files, *options, "MODEL.FPN.OUT_CHANNELS", 32)

    report = json.loads(output.read_text())
    assert report["overrides"] == ["MODEL.FPN.OUT_CHANNELS", "32"] and report["repeats"] == 2
    assert report["torch"] == torch.__version__ and report["threads"] == 1
    dtypes = ("float32", "bfloat16")
    done = [(x["batch_size"], x["dtype"], x["kept"], x["objects"]) for x in report["runs"]]
    assert done == [
        *((n, x, kept, None) for n in (1, 2) for x in dtypes for kept in (0.1, 0.5)),
        *((1, x, None, 3) for x in dtypes),
    ]
    for run in report["runs"]:
        assert list(run["models"]) == ["RetinaNet", "GuidedAnchorRetinaNet"]
    said = capsys.readouterr().out
    assert said == describe(report) + "\n"


@pytest.mark.parametrize(
    "option, value",
    [
        ("--kept", "0"),
        ("--kept", "1.5"),
        ("--batch-size", "0"),
        ("--dtype", "int8"),
        ("--device", "cuda:99"),
    ],
)
def test_what_cannot_be_is_refused(capsys, option, value):
    with pytest.raises((SystemExit, ValueError)) as raised:
        run_benchmark("quick_start/retinanet", option, value)
    assert option in f"{raised.value}{capsys.readouterr().err}"
