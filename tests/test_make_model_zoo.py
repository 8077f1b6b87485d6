"""MODEL_ZOO.md and the script that writes it."""

import re
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from anchor_heads import model_zoo

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "MODEL_ZOO.md"

ROW = {"config": "free_anchor_R_50_FPN_1x", "trained": "R-50, 1x", "authors": [38.7, None]}
SECTION = {
    "title": "FreeAnchor",
    "text": "From its README.",
    "folder": "free_anchor",
    "authors": ["AP", "images/s"],
    "check": "a",
    "address": "https://example.com/files/",
}


def make_model_zoo(monkeypatch, *options):
    monkeypatch.setattr(sys, "argv", ["make_model_zoo.py", *map(str, options)])
    runpy.run_path(str(ROOT / "tools/make_model_zoo.py"), run_name="__main__")


def make_page(monkeypatch, folder, *rows):
    """The lines of a page of one section with these rows, which have ROW's values by default."""
    section = SECTION | {"rows": [ROW | row for row in rows]}
    zoo = {
        "introduction": "# Zoo",
        "checks": {"a": "all"},
        "sections": [section],
        "others": "Rest.",
    }
    (folder / "zoo.yaml").write_text(yaml.safe_dump(zoo))
    make_model_zoo(monkeypatch, "--data", folder / "zoo.yaml", "--output", folder / "ZOO.md")
    return (folder / "ZOO.md").read_text().splitlines()


def test_page_is_what_the_script_writes(monkeypatch):
    make_model_zoo(monkeypatch, "--check")


@pytest.mark.parametrize("stale", [None, "another page"])
def test_check_fails_on_a_page_that_is_out_of_date_and_leaves_it(monkeypatch, tmp_path, stale):
    page = tmp_path / "MODEL_ZOO.md"
    if stale:
        page.write_text(stale)
    with pytest.raises(SystemExit, match="out of date: run python tools/make_model_zoo.py"):
        make_model_zoo(monkeypatch, "--check", "--output", page)
    assert (page.read_text() if page.exists() else None) == stale


def test_page_names_every_config_and_links_to_files_that_exist():
    links = re.findall(r"\]\(((?!https://).+?)\)", PAGE.read_text())
    assert {f"configs/{name}" for name in model_zoo.list_configs()} <= set(links)
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_what_authors_report_and_what_was_measured_here_have_columns_of_their_own(
    monkeypatch, tmp_path
):
    measured = {"measured": "AP 38.5", "file": "model.pth"}
    lines = make_page(monkeypatch, tmp_path, {}, measured)
    config = "[free_anchor_R_50_FPN_1x](configs/free_anchor/free_anchor_R_50_FPN_1x.yaml)"
    assert lines[lines.index("## FreeAnchor") + 2 :][:6] == [
        "From its README.",
        "",
        "| our config | published training | authors report: AP | authors report: images/s "
        "| published file | conversion checked here | measured here |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        f"| {config} | R-50, 1x | 38.7 | – | – | – | – |",
        f"| {config} | R-50, 1x | 38.7 | – | [model.pth](https://example.com/files/model.pth) "
        "| a | AP 38.5 |",
    ]


@pytest.mark.parametrize(
    "row, cell",
    [
        ({"file": "open?id=1a"}, "[example.com](https://example.com/files/open?id=1a)"),
        ({"file": "1a", "name": "m.pth"}, "[m.pth](https://example.com/files/1a)"),
        (
            {"file": "1a", "password": "k7"},
            "[example.com](https://example.com/files/1a), password `k7`",
        ),
        ({"settings": "A.B 1"}, "free_anchor_R_50_FPN_1x.yaml) with `A.B 1`"),
        ({"file": "m.pth", "check": None}, "[m.pth](https://example.com/files/m.pth) | – | –"),
    ],
)
def test_row_shows(monkeypatch, tmp_path, row, cell):
    assert f"{cell} |" in "\n".join(make_page(monkeypatch, tmp_path, row))


@pytest.mark.parametrize(
    "row, error",
    [
        ({"config": "free_anchor_R50"}, "There is no config named 'free_anchor/free_anchor_R50'"),
        ({"authors": [1]}, "free_anchor_R_50_FPN_1x: 1 values for .*AP.*images/s"),
        ({"check": "b"}, "free_anchor_R_50_FPN_1x: there is no check 'b', only a"),
    ],
)
def test_script_refuses_a_wrong_row(monkeypatch, tmp_path, row, error):
    with pytest.raises(ValueError, match=error):
        make_page(monkeypatch, tmp_path, row)
    assert not (tmp_path / "ZOO.md").exists()
