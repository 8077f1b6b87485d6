"""The tables of measured numbers."""

import statistics

from anchor_heads.analysis.benchmark.measure import WHOLE
from anchor_heads.analysis.reports import device_name, markdown_table, markdown_text


def describe(report: dict) -> str:
    """A report as Markdown: how it was made, and for each workload a table and what failed.

    Args:
        report (dict): "command" (str), "repeats" (int), "runs" (see
            :func:`anchor_heads.analysis.benchmark.measure.measure`) and the entries of
            :func:`anchor_heads.analysis.reports.environment`.
    """
    origin = (
        f"`{report['command']}`: medians of {report['repeats']} turns, {device_name(report)}, "
        f"torch {report['torch']}, {report['date'][:10]}."
    )
    parts = [origin]
    for run in report["runs"]:
        parts.append(f"{describe_workload(run)}:")
        if run["models"]:
            parts.append(table(run))
        parts += [
            f"{markdown_text(name)} failed: {markdown_text(error)}"
            for name, error in run["failed"].items()
        ]
    return "\n\n".join(parts)


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
    first, *others = {model["baseline"] for model in run["models"].values()}
    headers = ["model", "part", "ms", f"/ {'baseline' if others else first} (quartiles)", "MB"]
    rows = []
    for name, model in run["models"].items():
        for part, turns in model["seconds"].items():
            ratio, memory = model["ratios"].get(part), model.get("peak_memory", {}).get(part)
            rows.append(
                [
                    name if part == WHOLE else "",
                    part,
                    f"{1000 * statistics.median(turns):.1f}",
                    "{1:.3f} ({0:.3f} to {2:.3f})".format(*ratio) if ratio else "",
                    f"{memory / 1e6:.0f}" if memory else "",
                ]
            )
    return markdown_table(headers, rows, text_columns=2)
