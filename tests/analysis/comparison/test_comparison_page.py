"""The report's tables, pictures and page."""

import base64
import re
from html.parser import HTMLParser

import cv2
import markdown
import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances

from anchor_heads.analysis.comparison.definitions import DEFINITIONS, RANKS
from anchor_heads.analysis.comparison.page import html_page
from anchor_heads.analysis.comparison.pictures import ImagePictures, Picture, show_best_anchors
from anchor_heads.analysis.comparison.tables import markdown_report

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


def rows_of(markdown, title):
    section = markdown.split(f"## {title}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_markdown_has_the_numbers(report):
    text = markdown_report(report)
    assert "1,234 images, 3 of them without objects, 20 objects (20 small, 0 medium" in text
    assert "2 thread(s) of A CPU" in text
    first = rows_of(text, "Overview")[2]
    assert first == ["first", "12,300", "15.0", "0.625", "75.0", "50.0", "93.2"]
    assert rows_of(text, "Overview")[3][-1] == "–"
    costs = rows_of(text, "Costs")[2]
    assert costs == ["first", "11.50", "3.46", "480x640", "200.0 (100.0 to 400.0)"]
    best = rows_of(text, "Best IoU of an object with any anchor")
    assert best[3][1:] == ["small", "20", "0.625", "75.0", "50.0"]
    assert best[4][1:] == ["medium", "0", "–", "–", "–"]
    recall = rows_of(text, "Recall at IoU 0.5 (R50) of the k best boxes, %")
    assert recall[5] == ["\\<b\\>\\&second", "proposals", "0.0", "20.0", "40.0", "60.0", "80.0"]
    assert rows_of(text, "Anchors per image by level")[2] == ["first", "12,000", "300", "12,300"]
    assert all(meaning in text for meaning in DEFINITIONS.values())
    assert "not trained" not in text


def test_what_could_not_be_counted_is_left_open(report):
    report["models"][0] |= {"parameters": None, "multiply_adds": None}
    assert rows_of(markdown_report(report), "Costs")[2][1:3] == ["–", "–"]


def test_an_untrained_model_is_named(report):
    report["models"][0] |= {"head_is_trained": False, "weights": ""}
    for text in (markdown_report(report), html_page(report, [])):
        assert "first is not trained" in text and "(weights: none)" in text


def test_names_do_not_format_markdown(report):
    for name in ("*a*|b_c_d", "_x_ [y](z)"):
        report["models"] = [model(name, "detections", head_is_trained=False)]
        report["data_set"]["name"] = name
        text = markdown_report(report)
        html = markdown.markdown(text, extensions=["tables"])
        assert len(re.findall(f"<td[^>]*>{re.escape(name)}</td>", html)) == 12
        assert f"<p>Data set {name}: 1,234 images" in html
        assert f"<strong>{name} is not trained" in html


class Page(HTMLParser):
    """Checks that tags are closed in order, and gathers what is in them."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.text, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())


def test_the_page_needs_no_other_file(report):
    jpeg = cv2.imencode(".jpg", np.full((10, 20, 3), 50, np.uint8))[1].tobytes()
    pictures = {x["name"]: [Picture(jpeg, "an anchor")] for x in report["models"]}
    text = html_page(report, [ImagePictures("a<b.jpg", pictures)])
    page = Page(text)
    encoded = [x.split(",")[1] for x in page.addresses if "jpeg" in x]
    assert [base64.b64decode(x) for x in encoded] == [jpeg, jpeg]
    assert "a<b.jpg" in page.text and "<b>&second" in page.text
    assert 'name="viewport"' in text and "light-dark(" in text
    outside_svg = re.sub(r'xmlns(:xlink)?="[^"]*"', "", text)
    assert not re.search(r"https?:|url\((?!#)|@import|<script|<link", outside_svg)
    assert all(x is None or x.startswith("data:image/") for x in page.addresses)
    # Plots: two sizes with objects; AR and R50 of three kinds; anchors by level.
    assert page.tags.count("svg") == 2 + 6 + 1 and page.tags.count("table") == 7
    assert text.count("currentColor") > 100  # text and axes are light on dark


def test_the_best_anchor_of_each_object_is_shown():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 20], [50, 50, 60, 60]])
    boxes = Boxes(torch.tensor([[0.0, 0, 10, 16], [50, 50, 60, 55]]))
    objects = Instances((100, 100), gt_boxes=boxes)
    found = show_best_anchors(anchors, objects)
    assert torch.equal(found.boxes, anchors[1:]) and found.image_size == (100, 100)
    torch.testing.assert_close(found.scores, torch.tensor([0.8, 0.5]))
    assert "the mean IoU is 0.65" in found.caption
    none = show_best_anchors(anchors[:0], objects)
    assert len(none.boxes) == len(none.scores) == 0 and "the mean IoU is 0.00" in none.caption
