"""The site: built without warnings, with links that fit it."""

import importlib
import re
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("[a](../free_anchor/README.md#results)", "[a](../free_anchor/README.md#results)"),
        ("[zoo](../../MODEL_ZOO.md)", "[zoo](../../MODEL_ZOO.md)"),
        ("[faq](../../docs/faq.md#anchors)", "[faq](../../faq.md#anchors)"),
        (
            "[weights](../../anchor_heads/checkpoint)",
            "[weights](../../anchor_heads/checkpoint/README.md)",
        ),
        ("![maps](../../docs/maps.jpg)", "![maps](../../maps.jpg)"),
        ("[head.py](head.py)", "`head.py`"),
        ("[the layers](../../anchor_heads/layers)", "the layers (`anchor_heads/layers`)"),
        ("[top](#top)", "[top](#top)"),
        ("[gone](gone.md)", "[gone](gone.md)"),
        ("[paper](https://arxiv.org/abs/1901.03278)", "[paper](https://arxiv.org/abs/1901.03278)"),
    ],
)
def test_links_fit_the_site(monkeypatch, text, expected):
    monkeypatch.syspath_prepend(ROOT / "docs")
    hooks = importlib.import_module("hooks")
    pages = [*hooks.PAGES, "faq.md", "maps.jpg"]
    assert hooks.fit_links(text, "projects/guided_anchoring/README.md", pages) == expected


def test_site_is_built_without_warnings(tmp_path, caplog):
    pytest.importorskip("material")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), site_dir=str(tmp_path)))
    assert [x.getMessage() for x in caplog.records if x.levelname in ("WARNING", "ERROR")] == []
    pages = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*.html")}
    for page in ("index", "commands", "projects/free_anchor/index", "MODEL_ZOO"):
        assert f"{page}.html" in pages
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".py", ".yaml")]
    for name, path in pages.items():
        html = path.read_text()
        assert not re.search(r'(?:src|href)="(?:https?:)?//[^"]+\.(?:css|js|woff2?)', html), name
        text = re.sub(r"<(pre|code).*?</\1>", "", html, flags=re.DOTALL)
        assert "|---" not in text and "| ---" not in text and ":class:" not in text, name
    keys = pages["config_keys.html"].read_text()
    assert "BAG_SIZE" in keys and "SHAPE_IOU_THRESHOLDS" in keys
    assert "GuidedAnchorRPN" in pages["api/models.html"].read_text()
