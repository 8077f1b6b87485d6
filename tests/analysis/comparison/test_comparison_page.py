"""The report's tables, pictures and page."""

import re
from html.parser import HTMLParser

import markdown
import pytest

from anchor_heads.analysis.comparison.measure import RANKS
from anchor_heads.analysis.comparison.page import ImagePictures, html_page
from anchor_heads.analysis.comparison.run import overview

VOID = {"meta", "img"}


def model(name, kind, **changes):
    """A model's part of a report."""
    best = {"objects": 20, "mean": 0.625, "from_0.5": 75.0, "from_0.7": 50.0}
    best["histogram"] = [0] * 10 + [2] * 10
    nothing = dict.fromkeys(best) | {"objects": 0, "histogram": [0] * 20}
    recall = {str(k): {"AR": i * 10.0, "R50": i * 20.0} for i, k in enumerate(RANKS)}
    return {
        "name": name,
        "weights": "model.pth",
        "head_is_trained": True,
        "input_size": [480, 640],
        "parameters": 11_500_000,
        "multiply_adds": 3_456_000_000,
        "seconds_per_image": [0.1, 0.2, 0.4],
        "anchors_per_image": {"p3": 12000.0, "p4": 300.0, "all": 12300.0},
        "locations_kept": {"p3": 12.5, "p4": 100.0, "all": 15.0},
        "best_iou": {"all": best, "small": best, "medium": nothing, "large": nothing},
        "recall": {"anchors": recall, kind: recall},
        "nms_recall": {"NR": 93.21, "by_iou": {"0.50": 99.0}} if kind == "detections" else None,
        **changes,
    }


@pytest.fixture
def report():
    return {
        "date": "2026-01-02",
        "torch": "2.0",
        "device": "cpu",
        "cpu": "A CPU",
        "threads": 2,
        "data_set": {
            "name": "cells",
            "images": 1234,
            "images_without_objects": 3,
            "objects": {"all": 20, "small": 20, "medium": 0, "large": 0},
        },
        "models": [model("first", "detections"), model("<b>&second", "proposals")],
    }


class Page(HTMLParser):
    """Checks that tags are closed in order, and gathers what is in them."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.text, self.tags = [], [], [], []
        self.rows = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag == "tr":
            self.rows.append([])
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1].append(data)


def test_the_page_has_the_numbers(report):
    report["models"][0] |= {"parameters": None, "head_is_trained": False, "weights": ""}
    page = Page(html_page(report, []))
    text = " ".join(" ".join(page.text).split())
    assert "1,234 images, 3 of them without objects, 20 objects (20 small, 0 medium" in text
    assert "2 thread(s) of A CPU" in text
    assert "first is not trained" in text and "(weights: none)" in text
    for row in (
        ["first", "12,300", "15.0", "0.625", "75.0", "50.0", "93.2"],
        ["<b>&second", "12,300", "15.0", "0.625", "75.0", "50.0", "–"],
        ["first", "–", "3.46", "480x640", "200.0 (100.0 to 400.0)"],
        ["first", "small", "20", "0.625", "75.0", "50.0"],
        ["first", "medium", "0", "–", "–", "–"],
        ["<b>&second", "proposals", "0.0", "10.0", "20.0", "30.0", "40.0"],
        ["first", "anchors per image", "12,000", "300", "12,300"],
        ["first", "locations kept, %", "12.5", "100.0", "15.0"],
    ):
        assert row in page.rows


def test_names_with_an_underscore_are_in_the_legends(report):
    report["models"][0]["name"] = "_first"
    page = html_page(report, [])
    assert sum(part.count(">_first<") for part in re.findall("<svg.*?</svg>", page, re.S)) == 5


def test_the_page_needs_no_other_file(report):
    pictures = {x["name"]: [("data:image/jpeg;base64,AAAA", "an anchor")] for x in report["models"]}
    text = html_page(report, [ImagePictures("a<b.jpg", pictures)])
    page = Page(text)
    assert [x for x in page.addresses if x and "jpeg" in x] == ["data:image/jpeg;base64,AAAA"] * 2
    assert "Anchors on a<b.jpg" in page.text and page.text.count("an anchor") == 2
    assert 'name="viewport"' in text and "light-dark(" in text
    outside_svg = re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)
    assert not re.search(r"https?:|url\((?!#)|@import|<script|<link", outside_svg)
    # Plots: two sizes with objects; AR of three kinds.
    assert page.tags.count("svg") == 2 + 3 and page.tags.count("table") == 5
    assert text.count("currentColor") > 50  # text and axes are light on dark


def test_the_overview_is_markdown(report):
    report["models"][1]["name"] = "*a*|b_c_d"
    html = markdown.markdown(overview(report["models"]), extensions=["tables"])
    rows = re.findall("<tr>(.*?)</tr>", html, re.DOTALL)[1:]
    cells = [re.findall("<td[^>]*>(.*?)</td>", row) for row in rows]
    assert cells[0] == ["first", "12,300", "15.0", "0.625", "93.2", "200.0"]
    assert cells[1] == ["*a*|b_c_d", "12,300", "15.0", "0.625", "", "200.0"]
