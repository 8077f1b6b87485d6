import torch

from anchor_heads.analysis.benchmark.report import describe, table
from anchor_heads.analysis.reports import environment


def summary(median):
    return {"quartiles": [median / 2, median, median * 2], "turns": [median]}


def make_run(share):
    return {
        "kept": share,
        "mean_blob_cells": 9.04,
        "boxes": {"a": 7, "b": 8},
        "seconds": {
            "a": {x: summary(y) for x, y in {"whole": share, "head": 0.01, "other": 0.002}.items()},
            "b": {"whole": summary(0.5), "head": summary(0.02), "head: guide": summary(0.01)},
        },
        "ratios": {
            "a / b": {"whole": summary(2 * share), "head": summary(0.5)},
            "b": {"judging, sparse / dense": summary(0.25)},
        },
        "largest_difference": {"b": 2e-7},
        "peak_memory": {"a": {"whole": 123_400_000, "other": 0}, "b": {"whole": 99_600_000}},
    }


def test_table_has_a_row_per_run_and_part():
    assert table([make_run(0.02), make_run(0.125)]).splitlines() == [
        "| locations kept | part | a, ms | b, ms | a / b (quartiles) | a, MB | b, MB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| 2 % | whole | 20.0 | 500.0 | 0.040 (0.020 to 0.080) | 123 | 100 |",
        "| 2 % | head | 10.0 | 20.0 | 0.500 (0.250 to 1.000) |  |  |",
        "| 2 % | head: guide |  | 10.0 |  |  |  |",
        "| 2 % | other | 2.0 |  |  | 0 |  |",
        "| 12.5 % | whole | 125.0 | 500.0 | 0.250 (0.125 to 0.500) | 123 | 100 |",
        "| 12.5 % | head | 10.0 | 20.0 | 0.500 (0.250 to 1.000) |  |  |",
        "| 12.5 % | head: guide |  | 10.0 |  |  |  |",
        "| 12.5 % | other | 2.0 |  |  | 0 |  |",
    ]


def test_table_of_training():
    training = {"objects": 100, "seconds": {"a": {"whole": summary(1.5)}}, "ratios": {}}
    assert table([training]).splitlines() == [
        "| objects | part | a, ms |",
        "| --- | --- | --- |",
        "| 100 | whole | 1500.0 |",
    ]


def test_description_of_a_report():
    report = {
        "command": "python tools/benchmark.py",
        "arguments": {"image_size": [64, 96], "repeats": 3},
        **environment(torch.device("cpu")),
        "runs": [make_run(0.02)],
    }
    origin, _, notes = describe(report).split("\n\n")
    assert origin.startswith(
        "`python tools/benchmark.py`: one image of 64x96, medians of 3 turns, cpu, "
    )
    assert notes == (
        "- 2 % of the locations: 7 boxes of a; 8 boxes of b; 9.0 cells per blob; judging, sparse / "
        "dense of b 0.250 (0.125 to 0.500); largest difference of b 2.0e-07."
    )


def test_environment_has_the_versions():
    found = environment(torch.device("cpu"))
    assert found["torch"] == torch.__version__ and found["device"] == "cpu"
    assert found["threads"] == torch.get_num_threads() and found["date"].endswith("+00:00")
    assert all(found[x] for x in ("python", "torchvision", "detectron2", "anchor_heads", "cpu"))
