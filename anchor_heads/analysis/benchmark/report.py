"""The tables of measured numbers."""

import statistics

from anchor_heads.analysis.benchmark.measure import WHOLE
from anchor_heads.analysis.reports import markdown_table


def describe(report: dict) -> str:
    """A report as Markdown: how it was made, and a table for each workload.

    Args:
        report (dict): "command" (str), "repeats" (int), "runs" (see
            :func:`anchor_heads.analysis.benchmark.measure.measure`) and the entries of
            :func:`anchor_heads.analysis.reports.environment`.
    """
    device = report["device"]
    if device == "cpu":
        device = f"{report['threads']} thread(s) of {report['cpu']}"
    origin = (
        f"`{report['command']}`: medians of {report['repeats']} turns, {device}, torch "
        f"{report['torch']}, {report['date'][:10]}."
    )
    tables = [f"{describe_workload(run)}:\n\n{table(run)}" for run in report["runs"]]
    return "\n\n".join([origin, *tables])


def describe_workload(run: dict) -> str:
    """What the models do, in a few words."""
    height, width = run["image_size"]
    images = f"{run['batch_size']} image(s) of {height}x{width}, {run['dtype']}"
    if run["objects"] is not None:
        return f"Training step, {images}, {run['objects']} objects each"
    kept = "" if run["kept"] is None else f", {100 * run['kept']:g} % of predicted locations kept"
    return f"Inference, {images}{kept}"


def table(run: dict) -> str:
    """Times, ratios to the baseline and memory: a row per model and part."""
    baselines = {model["baseline"] for model in run["models"].values()}
    ratio = f"/ {baselines.pop()}" if len(baselines) == 1 else "/ baseline"
    headers = ["model", "part", "ms", f"{ratio} (quartiles)", "MB"]
    rows = []
    for name, model in run["models"].items():
        for part, turns in model["seconds"].items():
            memory = model.get("peak_memory", {}).get(part)
            rows.append(
                [
                    name if part == WHOLE else "",
                    part,
                    f"{1000 * statistics.median(turns):.1f}",
                    _ratio(model["ratios"].get(part)),
                    "" if memory is None else f"{memory / 1e6:.0f}",
                ]
            )
    return markdown_table(headers, rows, text_columns=2)


def _ratio(quartiles) -> str:
    if quartiles is None:
        return ""
    low, median, high = quartiles
    return f"{median:.3f} ({low:.3f} to {high:.3f})"
