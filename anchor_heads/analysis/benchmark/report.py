"""The table of measured numbers."""


def describe(report: dict) -> str:
    """A report as Markdown: how it was made, its table, and what the table has no room for.

    Args:
        report (dict): "command" (str), "arguments" with "image_size" (height and width) and
            "repeats", "runs" (see :func:`anchor_heads.analysis.benchmark.compare.compare`) and the
            entries of :func:`anchor_heads.analysis.reports.environment`.
    """
    arguments = report["arguments"]
    height, width = arguments["image_size"]
    origin = (
        f"`{report['command']}`: one image of {height}x{width}, medians of {arguments['repeats']} "
        f"turns, {report['device']}, {report['threads']} threads of {report['cpu']}, torch "
        f"{report['torch']}, {report['date'][:10]}."
    )
    return "\n\n".join(filter(None, [origin, table(report["runs"]), notes(report["runs"])]))


def table(runs: list[dict]) -> str:
    """The times of the models' parts, their ratios and their memory: a row per run and part."""
    first, *others = runs[0]["seconds"]
    pairs = [f"{first} / {other}" for other in others]
    header = ["part", *(f"{x}, ms" for x in (first, *others)), *(f"{x} (quartiles)" for x in pairs)]
    if "peak_memory" in runs[0]:
        header += [f"{x}, MB" for x in (first, *others)]
    if condition := _condition_name(runs[0]):
        header.insert(0, condition)
    rows = [header, ["---"] * len(header)]
    for run in runs:
        for part in _parts(run):
            row = [_condition(run), part] if condition else [part]
            row += [_milliseconds(x.get(part)) for x in run["seconds"].values()]
            row += [_ratio(run["ratios"][pair].get(part)) for pair in pairs]
            if "peak_memory" in run:
                row += [_megabytes(x.get(part)) for x in run["peak_memory"].values()]
            rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def notes(runs: list[dict]) -> str:
    """What else there is to say of each run, as a Markdown list."""
    lines = []
    for run in runs:
        said = [f"{count} boxes of {name}" for name, count in run.get("boxes", {}).items()]
        if "mean_blob_cells" in run:
            said.append(f"{run['mean_blob_cells']:.1f} cells per blob")
        for name in run["seconds"]:
            ratios = run["ratios"].get(name, {})
            said += [f"{what} of {name} {_ratio(x)}" for what, x in ratios.items()]
        for name, difference in run.get("largest_difference", {}).items():
            said.append(f"largest difference of {name} {difference:.1e}")
        if said:
            condition = f"{_condition(run)} of the locations: " if "kept" in run else ""
            lines.append(f"- {condition}{'; '.join(said)}.")
    return "\n".join(lines)


def _parts(run) -> list[str]:
    """Those of all models, each before its own parts."""
    parts = dict.fromkeys(part for parts in run["seconds"].values() for part in parts)
    order = list(dict.fromkeys(part.split(":")[0] for part in parts))
    return sorted(parts, key=lambda part: order.index(part.split(":")[0]))


def _condition_name(run) -> str:
    return "locations kept" if "kept" in run else "objects" if "objects" in run else ""


def _condition(run) -> str:
    return f"{100 * run['kept']:g} %" if "kept" in run else str(run.get("objects", ""))


def _milliseconds(value) -> str:
    return f"{1000 * value['quartiles'][1]:.1f}" if value else ""


def _ratio(value) -> str:
    if not value:
        return ""
    low, median, high = value["quartiles"]
    return f"{median:.3f} ({low:.3f} to {high:.3f})"


def _megabytes(value) -> str:
    return "" if value is None else f"{value / 1e6:.0f}"
