"""The report as one HTML page that needs no other file."""

import base64
import io
from collections.abc import Sequence
from pathlib import PurePath
from typing import NamedTuple

import cv2
import jinja2
import matplotlib as mpl
import numpy as np
from detectron2.structures import Instances
from markupsafe import Markup
from matplotlib.figure import Figure

from anchor_heads.analysis.comparison.measure import (
    RANKS,
    AnnotatedImage,
    ComparedModel,
    resized,
)
from anchor_heads.analysis.comparison.summary import KINDS, NUM_BINS
from anchor_heads.analysis.reports import device_name
from anchor_heads.data.image_files import read_record_image
from anchor_heads.visualization.anchor_pictures import draw_anchors
from anchor_heads.visualization.inspected_anchors import inspect_anchors, inspect_best_anchors

# Long side of the pictures in pixels.
PICTURE_SIDE = 480
# Stands for the page's own text colour, light or dark.
_INK = "#010203"
_STYLE = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,
    **dict.fromkeys(["text.color", "axes.labelcolor", "xtick.color", "ytick.color"], _INK),
    "axes.edgecolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # Colours that people with colour blindness can tell apart, on white as on black.
    "axes.prop_cycle": mpl.cycler(
        color=["#1f7fc4", "#d55e00", "#00936b", "#b8569a", "#a67c00", "#7a6fd0"]
    ),
}


class ImagePictures(NamedTuple):
    """The pictures of one image."""

    name: str
    """Of the file."""
    models: dict[str, list[tuple[str, str]]]
    """By name of the model, pairs of a data URI and a caption."""


def html_page(report: dict, pictures: Sequence[ImagePictures]) -> str:
    """The page, readable in a phone's window too, in light and in dark.

    Args:
        report (dict): as in the JSON file.
        pictures (sequence of ImagePictures): of some images.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("anchor_heads.analysis.comparison", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    levels = {level for model in report["models"] for level in model["anchors_per_image"]}
    levels = [*sorted(levels - {"all"}), "all"]
    return environment.get_template("page.html").render(
        report=report,
        device=device_name(report),
        models=report["models"],
        levels=levels,
        ranks=[f"k = {k}" for k in RANKS],
        plots=_plots(report["models"]),
        pictures=pictures,
    )


def _number(value: float | None, form: str = ".1f") -> str:
    return format(value, form) if isinstance(value, (int, float)) else "–"


def draw_pictures(
    models: Sequence[ComparedModel], images: Sequence[AnnotatedImage], number: int
) -> list[ImagePictures]:
    """Pictures of the anchors on some images with objects, spread evenly over all of them.

    Args:
        models (sequence of ComparedModel): the models.
        images (sequence of AnnotatedImage): to choose from.
        number (int): how many images at most.
    """
    with_objects = [image for image in images if len(image.objects)]
    chosen = np.linspace(0, len(with_objects) - 1, min(number, len(with_objects))).astype(int)
    return [
        ImagePictures(
            PurePath(with_objects[i].record["file_name"]).name,
            {model.name: _draw_anchors(model, with_objects[i]) for model in models},
        )
        for i in chosen
    ]


def _draw_anchors(model: ComparedModel, image: AnnotatedImage) -> list[tuple[str, str]]:
    """The best anchor of each object; and those assigned to an object, or the most likely ones."""
    pixels = read_record_image(image.record)
    scale = PICTURE_SIDE / max(pixels.shape)
    width, height = (max(1, round(side * scale)) for side in pixels.shape[1::-1])
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    network_input = model.load(image)["image"]
    size = tuple(network_input.shape[1:])
    boxes = resized(image.objects.gt_boxes, image.objects.image_size, size)
    objects = Instances(size, gt_boxes=boxes, gt_classes=image.objects.gt_classes)
    result = []
    for inspect, highest in ((inspect_best_anchors, 1.0), (inspect_anchors, None)):
        inspected = inspect(model.model, network_input, objects)
        highest = highest or max([0.0, *inspected.scores.tolist()])
        picture = draw_anchors(pixels, inspected, boxes, highest)
        _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 80])
        caption = f"{inspected.caption}. Colours: {inspected.score_name} 0 to {highest:.2g}."
        uri = f"data:image/jpeg;base64,{base64.b64encode(jpeg.tobytes()).decode()}"
        result.append((uri, caption))
    return result


def _plots(models: list[dict]) -> dict[str, list[Markup]]:
    """Plots as SVG, by what the page calls them."""
    edges = [f"{i / NUM_BINS:g}" if i % 4 == 0 else "" for i in range(NUM_BINS)]
    return {
        "best_iou": [
            _plot(
                f"{size.capitalize()} objects: {first['objects']:,}",
                ("best IoU", "objects"),
                edges,
                {model["name"]: model["best_iou"][size]["histogram"] for model in models},
            )
            for size, first in models[0]["best_iou"].items()
            if first["objects"]
        ],
        "AR": [
            _plot(
                f"AR of {kind}",
                ("k", "%"),
                RANKS,
                {
                    model["name"]: [x["AR"] for x in model["recall"].get(kind, {}).values()]
                    for model in models
                },
                top=100,
            )
            for kind in KINDS
            if any(kind in model["recall"] for model in models)
        ],
    }


def _plot(title, axis_labels, ticks, heights, top=None) -> Markup:
    """Bars for each model in turn, so that equal values do not hide each other."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 3.2), layout="constrained")
        axes = figure.subplots()
        width = 0.8 / len(heights)
        bars = []  # by themselves, names that start with "_" are not in the legend
        for i, (name, values) in enumerate(heights.items()):
            offset = width * (i - (len(heights) - 1) / 2)
            # A kind of box that the model does not have leaves a gap.
            values = values or [np.nan] * len(ticks)
            bars.append(axes.bar(np.arange(len(ticks)) + offset, values, width, label=name))
        axes.set(title=title, xlabel=axis_labels[0], ylabel=axis_labels[1])
        axes.set_ylim(top=top)
        axes.set_xticks(range(len(ticks)), map(str, ticks))
        figure.legend(handles=bars, loc="outside lower center", ncols=2, frameon=False)
        file = io.StringIO()
        no_metadata = dict.fromkeys(["Creator", "Date", "Format", "Type"])
        figure.savefig(file, format="svg", transparent=True, metadata=no_metadata)
    svg = file.getvalue()
    return Markup(svg[svg.index("<svg") :].replace(_INK, "currentColor"))
