"""The report as one HTML page that needs nothing beside itself."""

import base64
from collections.abc import Sequence
from html import escape
from pathlib import PurePath

import cv2

from anchor_heads.analysis.comparison.definitions import DEFINITIONS, KINDS, RANKS
from anchor_heads.analysis.comparison.pictures import ImagePictures, Picture
from anchor_heads.analysis.comparison.plots import (
    NUM_COLORS,
    Axis,
    Line,
    histogram,
    line_plot,
    mark,
)
from anchor_heads.analysis.comparison.summary import ALL
from anchor_heads.analysis.comparison.tables import Table, introduction, tables, warnings
from anchor_heads.visualization.anchor_pictures import color_bar

# Colours that people with colour blindness can tell apart, after Okabe and Ito; on dark, lighter.
_STYLE = """
:root { color-scheme: light dark; --ink: #1c2329; --soft: #5b6670; --rule: #dfe4e8;
  --back: #ffffff; --card: #f6f8f9;
  --c0: #0072b2; --c1: #d55e00; --c2: #00805c; --c3: #b14d8e; --c4: #b07d00; --c5: #3d8fc4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaed; --soft: #9aa6b0; --rule: #333c44;
  --back: #14181c; --card: #1c2227;
  --c0: #58abe6; --c1: #ff8f4d; --c2: #3cc79c; --c3: #e493c6; --c4: #eebd4a; --c5: #9cd4f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1120px; padding: 16px; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0.5rem 0; }
h2 { font-size: 1.2rem; line-height: 1.3; margin: 2.2rem 0 0.6rem; }
h3 { font-size: 1rem; margin: 0 0 0.4rem; }
h3.above { margin-top: 1.2rem; }
p { margin: 0.4rem 0; max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: 0.85rem; }
.warning { border-left: 4px solid var(--c1); padding-left: 10px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; padding: 0; margin: 0.4rem 0;
  list-style: none; font-size: 0.9rem; }
.legend svg { width: 14px; height: 14px; vertical-align: -2px; margin-right: 5px; }
.plots, .pictures { display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); margin: 0.6rem 0; }
.card { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 10px;
  margin: 0; min-width: 0; }
.plots svg { display: block; width: 100%; max-width: 460px; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
.rule { stroke: var(--rule); fill: none; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.mark { stroke: var(--card); stroke-width: 1; }
.table { overflow-x: auto; border: 1px solid var(--rule); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; overflow-wrap: normal; }
th, td { padding: 5px 10px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--rule); font-variant-numeric: tabular-nums; }
th { background: var(--card); font-weight: 600; }
.text { text-align: left; }
tr:last-child td { border-bottom: 0; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--card); }
.picture img { display: block; width: 100%; height: auto; border-radius: 4px; }
figure { margin: 0; }
figcaption { margin: 4px 0 10px; }
.bar { display: block; width: 160px; height: 10px; }
dt { font-weight: 600; margin-top: 0.8rem; }
dd { margin: 0; max-width: 46rem; }
"""
_COLORS = "".join(
    f".line.c{i} {{ stroke: var(--c{i}); }} .mark.c{i} {{ fill: var(--c{i}); }}\n"
    for i in range(NUM_COLORS)
)


def html_page(report: dict, pictures: Sequence[ImagePictures]) -> str:
    """The page, readable in a phone's window too, in light and in dark.

    Args:
        report (dict): as in the JSON file.
        pictures (sequence of ImagePictures): of some images.
    """
    overview, costs, best_iou, *recalls, anchors_by_level, kept_by_level = tables(report)
    models = report["models"]
    legend = _legend(models)
    body = [
        "<h1>Comparison of anchors</h1>",
        f'<p class="soft">{escape(introduction(report))}</p>',
        *(f'<p class="warning">{escape(text)}</p>' for text in warnings(report)),
        *_section(overview.title, _table(overview)),
        _subsection(costs),
        *_section(best_iou.title, legend, _iou_plots(models), _table(best_iou)),
        *_section("Recall of the k best boxes", legend),
        *(_recall_plots(models, metric) for metric in ("AR", "R50")),
        *(_subsection(table) for table in recalls),
        *_section(anchors_by_level.title, legend, _level_plot(models), _table(anchors_by_level)),
        _subsection(kept_by_level),
        *_section("Anchors on objects", _picture_legend(), *map(_image_pictures, pictures)),
        *_section("What the numbers mean", _definitions()),
    ]
    return _document("\n".join(body))


def _document(body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Comparison of anchors</title>\n<style>{_STYLE}{_COLORS}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _section(title: str, *parts: str) -> list[str]:
    return [f"<h2>{escape(title)}</h2>", *parts]


def _subsection(table: Table) -> str:
    return f'<h3 class="above">{escape(table.title)}</h3>\n{_table(table)}'


def _table(table: Table) -> str:
    head = _row("th", table, table.headers)
    body = "".join(_row("td", table, row) for row in table.rows)
    return (
        f'<div class="table" tabindex="0"><table><thead>{head}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _row(tag: str, table: Table, cells: Sequence[str]) -> str:
    kinds = ["text"] * table.text_columns + ["number"] * len(cells)
    texts = [
        f'<{tag} class="{kind}">{escape(cell)}</{tag}>'
        for kind, cell in zip(kinds, cells, strict=False)
    ]
    return f"<tr>{''.join(texts)}</tr>"


def _legend(models) -> str:
    items = [
        f'<li><svg viewBox="0 0 14 14" aria-hidden="true">{mark(i, 7, 7)}</svg>'
        f"{escape(model['name'])}</li>"
        for i, model in enumerate(models)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _plot(title: str, svg: str) -> str:
    return f'<div class="card"><h3>{escape(title)}</h3>{svg}</div>'


def _grid(plots: Sequence[str]) -> str:
    return f'<div class="plots">{"".join(plots)}</div>'


def _iou_plots(models) -> str:
    plots = []
    for size in models[0]["best_iou"]:
        numbers = [model["best_iou"][size] for model in models]
        if count := numbers[0]["objects"]:
            lines = [
                Line(model["name"], i, [100 * x / count for x in iou["histogram"]])
                for i, (model, iou) in enumerate(zip(models, numbers, strict=True))
            ]
            svg = histogram(lines, "best IoU", "objects, %")
            plots.append(_plot(f"{size.capitalize()} objects: {count:,}", svg))
    return _grid(plots)


def _recall_plots(models, metric: str) -> str:
    axis = Axis("k", [str(k) for k in RANKS])
    plots = []
    for kind in KINDS:
        lines = [
            Line(model["name"], i, [model["recall"][kind][str(k)][metric] for k in RANKS])
            for i, model in enumerate(models)
            if kind in model["recall"]
        ]
        if lines:
            svg = line_plot(lines, axis, f"{metric}, %", highest=100)
            plots.append(_plot(f"{kind.capitalize()}: {metric}", svg))
    return _grid(plots)


def _level_plot(models) -> str:
    levels = sorted({level for model in models for level in model["anchors_per_image"]} - {ALL})
    lines = [
        Line(model["name"], i, [model["anchors_per_image"].get(level) for level in levels])
        for i, model in enumerate(models)
    ]
    svg = line_plot(lines, Axis("level", levels), "anchors per image")
    return _grid([_plot("Anchors per image, logarithmic", svg)])


def _picture_legend() -> str:
    _, png = cv2.imencode(".png", color_bar(160, 10))
    bar = f'<img class="bar" alt="from dark violet to yellow" src="{_data_uri("png", png)}">'
    return (
        '<p class="soft">Objects are cyan, anchors coloured from low to high by what the caption '
        f"names:</p>{bar}"
    )


def _image_pictures(image: ImagePictures) -> str:
    cards = [
        f'<div class="card picture"><h3>{escape(name)}</h3>{"".join(map(_figure, pictures))}</div>'
        for name, pictures in image.models.items()
    ]
    name = escape(PurePath(image.file_name).name)
    return f'<h3 class="above">{name}</h3>\n<div class="pictures">{"".join(cards)}</div>'


def _figure(picture: Picture) -> str:
    caption = escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="{_data_uri("jpeg", picture.jpeg)}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _definitions() -> str:
    items = [f"<dt>{escape(x)}</dt><dd>{escape(text)}</dd>" for x, text in DEFINITIONS.items()]
    return f"<dl>{''.join(items)}</dl>"


def _data_uri(kind: str, content) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
