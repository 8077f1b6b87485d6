"""The script that writes the tables of the documents."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TABLE = "<!-- table {} -->\n{}\n<!-- end -->\n"


@pytest.fixture
def tables(tmp_path, monkeypatch):
    """The functions of the script, which read their data from a folder of the test."""
    functions = runpy.run_path(str(ROOT / "docs/tables.py"))
    monkeypatch.setitem(functions["fill_in"].__globals__, "DATA", tmp_path)
    return functions


def lines_of(tables, name):
    filled = tables["fill_in"](TABLE.format(name, "old"), ROOT)
    assert "old" not in filled
    return filled.splitlines()[1:-2]


def test_all_tables_are_up_to_date(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check"])
    runpy.run_path(str(ROOT / "docs/tables.py"), run_name="__main__")


def test_check_names_a_file_that_is_out_of_date_and_leaves_it(tables, tmp_path, monkeypatch):
    write_results(tmp_path)
    page = tmp_path / "README.md"
    page.write_text(TABLE.format("results/ap", "old"))
    monkeypatch.setitem(tables["main"].__globals__, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["tables.py", "--check"])
    with pytest.raises(SystemExit, match="README.md is out of date: run python docs/tables.py"):
        tables["main"]()
    assert "old" in page.read_text()
    monkeypatch.setattr(sys, "argv", ["tables.py"])
    tables["main"]()
    assert "| FreeAnchor |" in page.read_text()


def write_results(folder):
    result = {
        "setting": "Three seeds.",
        "columns": ["model", "AP", "time"],
        "rows": [["FreeAnchor", [51.0, 42.8, 41.4], "4 min"], ["RetinaNet", 39.8, None]],
    }
    (folder / "results").mkdir()
    (folder / "results/ap.yaml").write_text(yaml.safe_dump(result))


def test_results_show_mean_and_range_of_several_seeds(tables, tmp_path):
    write_results(tmp_path)
    assert lines_of(tables, "results/ap") == [
        "",
        "| model | AP | time |",
        "| --- | --- | --- |",
        "| FreeAnchor | 45.1 (41.4 to 51.0) | 4 min |",
        "| RetinaNet | 39.8 |  |",
        "",
        "Three seeds.",
    ]


def test_benchmark_shows_medians_and_quartiles(tables, tmp_path):
    report = json.loads((ROOT / "docs/benchmarks/ga_retinanet.json").read_text())
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/ga.json").write_text(json.dumps(report))
    lines = lines_of(tables, "benchmarks/ga")
    assert lines[1].count("|") == 6  # five columns
    low, median, high = report["runs"][0]["models"]["ga_retinanet_R_50_FPN_1x"]["ratios"]["whole"]
    assert lines[3].endswith(f"| {median:.3f} ({low:.3f} to {high:.3f}) |")


def test_runtimes_stand_side_by_side(tables, tmp_path):
    def model(seconds, ratio=None):
        return {
            "seconds": {"whole": [seconds]},
            "ratios": {"whole": [0, ratio, 9]} if ratio else {},
        }

    runs = [
        {
            "image_size": [800, 1216],
            "objects": None,
            "models": {
                "a_R_50_FPN_1x": model(2),
                "a_R_50_FPN_1x (onnxruntime)": model(1, 0.5),
                "b": model(3, 1.5),
                "b (onnxruntime)": model(4, 2.0),
            },
        },
        {
            "objects": 10,
            "models": {"a_R_50_FPN_1x": model(6), "a_R_50_FPN_1x (compile)": model(3, 0.5)},
        },
    ]
    report = {"runs": runs, "repeats": 3, "threads": 2, "cpu": "CPU", "torch": "2.14.1+x"}
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/a.json").write_text(json.dumps(report | {"date": "2026-11-21T14"}))
    lines = lines_of(tables, "runtimes/a")
    assert lines[1] == "| task | model | eager PyTorch, ms | onnxruntime, ms | compile, ms |"
    assert lines[3:6] == [
        "| inference | a | 2000 | 1000 (0.50) |  |",
        "| inference | b | 3000 (1.50) | 4000 (2.00) |  |",
        "| training step | a | 6000 |  | 3000 (0.50) |",
    ]
    assert lines[7].startswith("In brackets the ratio to a in eager PyTorch. One image of 800x1216")


ROW = {"config": "free_anchor_R_50_FPN_1x", "trained": "R-50, 1x", "values": [38.6, None, 7]}
SECTION = {"name": "fa", "folder": "free_anchor", "short": 1, "columns": ["AP", "AR", "GB"]}


def write_zoo(folder, *rows):
    section = SECTION | {"address": "https://example.com/", "rows": [ROW | row for row in rows]}
    (folder / "model_zoo.yaml").write_text(yaml.safe_dump({"sections": [section]}))


CONFIG = "[free_anchor_R_50_FPN_1x](configs/free_anchor/free_anchor_R_50_FPN_1x.yaml)"


@pytest.mark.parametrize(
    "row, cells",
    [
        ({}, f"{CONFIG} |  | R-50, 1x | 38.6 |  | 7"),
        (
            {"file": "a.pth"},
            f"{CONFIG} | [weights](https://example.com/a.pth) | R-50, 1x | 38.6 |  | 7",
        ),
        (
            {"file": "a", "password": "k7", "settings": "A.B 1"},
            f"{CONFIG}, `A.B 1` | [weights](https://example.com/a), password `k7` "
            "| R-50, 1x | 38.6 |  | 7",
        ),
    ],
)
def test_published_row(tables, tmp_path, row, cells):
    write_zoo(tmp_path, row)
    assert lines_of(tables, "published/fa")[3] == f"| {cells} |"


def test_short_table_of_published_models(tables, tmp_path):
    write_zoo(tmp_path, {})
    assert lines_of(tables, "published/fa/short")[1:] == [
        "| config | training | AP |",
        "| --- | --- | --- |",
        f"| {CONFIG} | R-50, 1x | 38.6 |",
    ]


@pytest.mark.parametrize(
    "row, error",
    [
        ({"config": "free_anchor_R50"}, "There is no config .*free_anchor_R50.yaml"),
        ({"values": [1]}, "free_anchor_R_50_FPN_1x: 1 values for .*AP.*GB"),
    ],
)
def test_a_wrong_row_is_an_error(tables, tmp_path, row, error):
    write_zoo(tmp_path, row)
    with pytest.raises(ValueError, match=error):
        lines_of(tables, "published/fa")


@pytest.mark.parametrize(
    "text, error",
    [
        ("<!-- table nothing -->\n<!-- end -->", "no table named 'nothing'"),
        ("<!-- table configs -->\n", "not closed"),
    ],
)
def test_a_wrong_table_is_an_error(tables, text, error):
    with pytest.raises(ValueError, match=error):
        tables["fill_in"](text, ROOT)


def test_every_config_is_in_the_model_zoo():
    page = (ROOT / "MODEL_ZOO.md").read_text()
    configs = [x for x in (ROOT / "configs").glob("*/*.yaml") if not x.match("Base-*")]
    assert [x for x in configs if f"({x.relative_to(ROOT).as_posix()})" not in page] == []
