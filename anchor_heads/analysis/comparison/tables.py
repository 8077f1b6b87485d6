"""The tables of a comparison, and its report in Markdown."""

from typing import NamedTuple

from anchor_heads.analysis.comparison.definitions import ALL, DEFINITIONS, RANKS
from anchor_heads.analysis.reports import markdown_table, markdown_text

NONE = "–"


class Table(NamedTuple):
    """A table of text; all columns but the first ``text_columns`` have numbers."""

    key: str
    """What the page calls it."""
    title: str
    headers: list[str]
    rows: list[list[str]]
    text_columns: int = 1


def tables(report: dict) -> list[Table]:
    """All tables of a report, whose form is that of the JSON file."""
    models = report["models"]
    return [
        _overview(models),
        _costs(models),
        _best_iou(models),
        _recall(models, "AR", "Average recall (AR) of the k best boxes, %"),
        _recall(models, "R50", "Recall at IoU 0.5 (R50) of the k best boxes, %"),
        _by_level(models, "anchors_per_image", "Anchors per image by level", ",.0f"),
        _by_level(models, "locations_kept", "Locations kept by level, %", ".1f"),
    ]


def introduction(report: dict) -> str:
    """What was compared, on which data, and when."""
    data_set = report["data_set"]
    objects = data_set["objects"]
    sizes = ", ".join(f"{number:,} {size}" for size, number in objects.items() if size != ALL)
    device = report["device"]
    if device == "cpu":
        device = f"{report['threads']} thread(s) of {report['cpu']}"
    return (
        f"Data set {data_set['name']}: {data_set['images']:,} images, "
        f"{data_set['images_without_objects']:,} of them without objects, {objects[ALL]:,} objects "
        f"({sizes}). Times on {device}; torch {report['torch']}; {report['date']}."
    )


def warnings(report: dict) -> list[str]:
    """What a reader has to know before the numbers."""
    return [
        f"{model['name']} is not trained: the head of its anchors is as initialised (weights: "
        f"{model['weights'] or 'none'}). Only preset anchors are what they will be after training."
        for model in report["models"]
        if not model["head_is_trained"]
    ]


def markdown_report(report: dict) -> str:
    """The whole report; its form is that of the JSON file."""
    parts = ["# Comparison of anchors", markdown_text(introduction(report))]
    parts += [f"**{markdown_text(text)}**" for text in warnings(report)]
    for table in tables(report):
        text = markdown_table(table.headers, table.rows, table.text_columns)
        parts += [f"## {table.title}", text]
    parts += ["## What the numbers mean"]
    parts += [f"**{term}.** {text}" for term, text in DEFINITIONS.items()]
    return "\n\n".join(parts) + "\n"


def _overview(models) -> Table:
    headers = ["model", "anchors per image", "locations kept, %", "best IoU, mean", "≥ 0.5, %"]
    headers += ["≥ 0.7, %", "NMS recall (NR), %"]
    rows = [
        [
            model["name"],
            f"{model['anchors_per_image'][ALL]:,.0f}",
            f"{model['locations_kept'][ALL]:.1f}",
            *_iou_cells(model["best_iou"][ALL]),
            _number(model["nms_recall"] and model["nms_recall"]["NR"], ".1f"),
        ]
        for model in models
    ]
    return Table("overview", "Overview", headers, rows)


def _costs(models) -> Table:
    headers = ["model", "parameters, M", "multiply-adds, G", "input", "ms per image (quartiles)"]
    rows = []
    for model in models:
        low, median, high = (1000 * x for x in model["seconds_per_image"])
        counts = (model["parameters"], ".2f", 1e6), (model["multiply_adds"], ".2f", 1e9)
        size = "{}x{}".format(*model["input_size"])
        seconds = f"{median:.1f} ({low:.1f} to {high:.1f})"
        rows.append([model["name"], *(_number(*x) for x in counts), size, seconds])
    return Table("costs", "Costs", headers, rows)


def _best_iou(models) -> Table:
    headers = ["model", "objects", "number", "mean", "IoU ≥ 0.5, %", "IoU ≥ 0.7, %"]
    rows = [
        [model["name"], size, f"{iou['objects']:,}", *_iou_cells(iou)]
        for model in models
        for size, iou in model["best_iou"].items()
    ]
    return Table("best_iou", "Best IoU of an object with any anchor", headers, rows, 2)


def _iou_cells(iou: dict) -> list[str]:
    forms = {"mean": ".3f", "from_0.5": ".1f", "from_0.7": ".1f"}
    return [_number(iou[name], form) for name, form in forms.items()]


def _recall(models, metric, title) -> Table:
    rows = [
        [model["name"], kind, *(f"{recall[str(k)][metric]:.1f}" for k in RANKS)]
        for model in models
        for kind, recall in model["recall"].items()
    ]
    headers = ["model", "boxes", *(f"k = {k}" for k in RANKS)]
    return Table(metric, title, headers, rows, 2)


def _by_level(models, key, title, form) -> Table:
    levels = sorted({level for model in models for level in model[key]} - {ALL})
    rows = [
        [model["name"], *(_number(model[key].get(level), form) for level in (*levels, ALL))]
        for model in models
    ]
    return Table(key, title, ["model", *levels, ALL], rows)


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return NONE if value is None else format(value / unit, form)
