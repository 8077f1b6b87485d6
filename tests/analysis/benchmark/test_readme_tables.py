import json
import runpy
import sys

import pytest
import torch
from tiny_run import REPOSITORY

from anchor_heads.analysis.benchmark.readme_tables import fill_in_benchmarks
from anchor_heads.analysis.benchmark.report import describe
from anchor_heads.analysis.reports import environment

README = """# Cost
Before.
<!-- benchmark one -->
| an old | table |
<!-- end -->
Between.
<!-- benchmark two -->
<!-- end -->
After.
"""


@pytest.fixture
def results(tmp_path):
    """A folder with the benchmarks "one" and "two"."""
    for i, name in enumerate(["one", "two"]):
        milliseconds = {"quartiles": [i, i, i], "turns": [i]}
        report = {
            "command": f"python tools/benchmark.py --output {name}.json",
            "arguments": {"image_size": [64, 96], "repeats": 1},
            **environment(torch.device("cpu")),
            "runs": [{"seconds": {name: {"whole": milliseconds}}, "ratios": {}}],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    return tmp_path


def test_sections_get_their_benchmarks(results):
    filled = fill_in_benchmarks(README, results)
    one, two = (describe(json.loads((results / f"{x}.json").read_text())) for x in ("one", "two"))
    assert "| part | one, ms |" in one and "| whole | 1000.0 |" in two
    assert filled == (
        "# Cost\nBefore.\n"
        f"<!-- benchmark one -->\n\n{one}\n\n<!-- end -->\nBetween.\n"
        f"<!-- benchmark two -->\n\n{two}\n\n<!-- end -->\nAfter.\n"
    )
    assert fill_in_benchmarks(filled, results) == filled


@pytest.mark.parametrize("i", [0, 1])
def test_a_section_that_is_not_closed_is_refused(results, i):
    parts = README.split("<!-- end -->\n")
    broken = "<!-- end -->\n".join([*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]])
    with pytest.raises(ValueError, match="not closed"):
        fill_in_benchmarks(broken, results)


def test_a_benchmark_that_is_missing_is_named(results):
    with pytest.raises(FileNotFoundError, match=r"three\.json .*--output"):
        fill_in_benchmarks(README.replace("two", "three"), results)


def readme_tables(monkeypatch, *command_line):
    monkeypatch.setattr(sys, "argv", ["readme_tables.py", *map(str, command_line)])
    runpy.run_path(str(REPOSITORY / "tools/readme_tables.py"), run_name="__main__")


def test_files_are_checked_and_written(results, tmp_path, monkeypatch, capsys):
    file = tmp_path / "README.md"
    file.write_text(README)
    options = ["--results", results, file]
    with pytest.raises(SystemExit, match=f"differ.*{file}"):
        readme_tables(monkeypatch, "--check", *options)
    assert file.read_text() == README
    readme_tables(monkeypatch, *options)
    assert capsys.readouterr().out == f"Wrote {file}\n"
    assert file.read_text() == fill_in_benchmarks(README, results)
    readme_tables(monkeypatch, "--check", *options)


def test_the_tables_of_this_repository_are_those_of_its_benchmarks(monkeypatch):
    readme_tables(monkeypatch, "--check")
