"""The report as one HTML page that needs no other file."""

import base64
import io
from collections.abc import Sequence

import jinja2
import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

from anchor_heads.analysis.comparison.definitions import ALL, DEFINITIONS, KINDS, RANKS
from anchor_heads.analysis.comparison.pictures import ImagePictures, color_bar_png
from anchor_heads.analysis.comparison.tables import introduction, tables, warnings

# Colours that people with colour blindness can tell apart, on white as on black; and the marks of
# the plots beside the characters that look like them.
COLORS = ("#1f7fc4", "#d55e00", "#00936b", "#b8569a", "#a67c00", "#7a6fd0")
MARKERS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼"}
# Stands for the page's own text colour, light or dark.
_INK = "#010203"
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    **dict.fromkeys(["text.color", "axes.labelcolor", "xtick.color", "ytick.color"], _INK),
    **dict.fromkeys(["axes.edgecolor", "grid.color"], _INK),
    "grid.alpha": 0.15,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
# Models stand side by side, so that equal values do not hide each other.
_STEP_ASIDE = 0.07


def html_page(report: dict, pictures: Sequence[ImagePictures]) -> str:
    """The page, readable in a phone's window too, in light and in dark.

    Args:
        report (dict): as in the JSON file.
        pictures (sequence of ImagePictures): of some images.
    """
    loader = jinja2.PackageLoader("anchor_heads.analysis.comparison", "")
    template = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True
    ).get_template("page.html")
    models = report["models"]
    kinds = [kind for kind in KINDS if any(kind in model["recall"] for model in models)]
    with mpl.rc_context(_STYLE):
        plots = {
            "best_iou": _iou_plots(models),
            "AR": [_recall_plot(models, kind, "AR") for kind in kinds],
            "R50": [_recall_plot(models, kind, "R50") for kind in kinds],
            "anchors_per_image": [_level_plot(models)],
        }
    return template.render(
        introduction=introduction(report),
        warnings=warnings(report),
        legend=[(model["name"], *_style(i, MARKERS.values())) for i, model in enumerate(models)],
        tables=tables(report),
        plots=plots,
        pictures=pictures,
        color_bar=_data_uri("png", color_bar_png()),
        data_uri=_data_uri,
        definitions=DEFINITIONS,
    )


def _iou_plots(models) -> list[tuple[str, str]]:
    plots = []
    for size, first in models[0]["best_iou"].items():
        if count := first["objects"]:
            figure, axes = _axes("best IoU", "objects, %")
            for i, model in enumerate(models):
                bins = np.array(model["best_iou"][size]["histogram"])
                axes.stairs(100 * bins / count, np.linspace(0, 1, len(bins) + 1), color=_color(i))
            plots.append((f"{size.capitalize()} objects: {count:,}", _svg(figure)))
    return plots


def _recall_plot(models, kind, metric) -> tuple[str, str]:
    figure, axes = _axes("k", f"{metric}, %", RANKS)
    for i, model in enumerate(models):
        if kind in model["recall"]:
            values = [model["recall"][kind][str(k)][metric] for k in RANKS]
            _line(axes, i, len(models), values)
    axes.set_ylim(-3, 103)
    return f"{kind.capitalize()}: {metric}", _svg(figure)


def _level_plot(models) -> tuple[str, str]:
    levels = sorted({level for model in models for level in model["anchors_per_image"]} - {ALL})
    figure, axes = _axes("level", "anchors per image", levels)
    axes.set_yscale("log")
    for i, model in enumerate(models):
        # No level is drawn where there is nothing.
        values = [model["anchors_per_image"].get(level) or np.nan for level in levels]
        _line(axes, i, len(models), values)
    return "Anchors per image, logarithmic", _svg(figure)


def _axes(x_label, y_label, ticks=None):
    figure = Figure(figsize=(4.2, 2.8), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x_label, ylabel=y_label)
    if ticks is not None:
        axes.set_xticks(range(len(ticks)), map(str, ticks))
    return figure, axes


def _line(axes, index, number, values):
    aside = _STEP_ASIDE * (index - (number - 1) / 2)
    color, marker = _style(index, MARKERS)
    axes.plot(np.arange(len(values)) + aside, values, color=color, marker=marker, markersize=5)


def _style(index, markers) -> tuple[str, str]:
    """Colours and marks repeat, together after 30 models."""
    return _color(index), list(markers)[index % len(MARKERS)]


def _color(index):
    return COLORS[index % len(COLORS)]


def _svg(figure: Figure) -> Markup:
    file = io.StringIO()
    no_metadata = dict.fromkeys(["Creator", "Date", "Format", "Type"])
    figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    svg = file.getvalue()
    return Markup(svg[svg.index("<svg") :].replace(_INK, "currentColor"))


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
