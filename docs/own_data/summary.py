"""Make the tables and plots of docs/which_anchors.md from the results of measure.py.

    python docs/own_data/summary.py && python docs/tables.py

Tables go to docs/results/own_data_*.yaml, plots to docs/pictures/own_data_*.png.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import yaml  # noqa: E402

DOCS = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
LIMITS = (30, 100, 300, 1000)
RATIOS = ("to 2", "to 4", "to 8", "over 8")
PROPOSALS = {
    "rpn": "RPN, preset anchors",
    "rpn_suggested": "RPN, suggested anchors",
    "free_anchor_rpn_suggested": "FreeAnchorRPN, suggested anchors",
    "ga_rpn_published": "GuidedAnchorRPN, published settings",
    "ga_rpn": "GuidedAnchorRPN",
    "da_rpn": "DynamicAnchorRPN",
}
ONE_STAGE = {
    "retinanet": "RetinaNet, preset anchors",
    "retinanet_suggested": "RetinaNet, suggested anchors",
    "retinanet_suggested_p2": "RetinaNet, suggested anchors, on P2 to P5",
    "free_anchor": "FreeAnchor, preset anchors",
    "free_anchor_suggested": "FreeAnchor, suggested anchors",
    "ga_retinanet": "GA-RetinaNet",
    "da_retinanet": "DA-RetinaNet",
}
DATA = {"receipts": "Receipts", "aquarium": "Aquarium", "bccd": "BCCD"}
COMMAND = "python docs/own_data/measure.py --data DIR --weights tf_efficientnet_lite0.pth"


def read() -> dict[str, dict[str, list[dict]]]:
    """The results by data set and model, one for each seed."""
    results = defaultdict(lambda: defaultdict(list))
    for path in sorted(RESULTS.glob("*/*.json")):
        result = json.loads(path.read_text("utf-8"))
        results[path.parent.name][path.stem.rsplit("-", 1)[0]].append(result)
    return results


def last(result: dict) -> dict:
    """The numbers at the end of a training."""
    return result["curve"][max(result["curve"], key=int)]


def setting(data: str, runs: dict[str, list[dict]], names: dict[str, str]) -> str:
    """How a table was measured."""
    one = next(run[0] for model, run in runs.items() if model in names)
    seeds = {len(run) for model, run in runs.items() if model in names}
    seconds = [x["cpu seconds"] for model, run in runs.items() if model in names for x in run]
    spread = "Mean (minimum to maximum) of the seeds. " if max(seeds) > 1 else ""
    return (
        f"{DATA[data]}, {one['test images']} test images. EfficientNet-Lite0 from ImageNet, "
        f"{one['iterations']} iterations of {one['batch']} image, random crops at a short side of "
        f"{one['short side']}, AdamW at {one['learning rate']}, one CPU thread, "
        f"{min(seconds)} to {max(seconds)} s for a training with its evaluations. {spread}"
        "The number of seeds stands behind the model."
    )


def write_table(name, runs, data, names, columns, values) -> None:
    """A table with a row for each measured model."""
    rows = [
        [f"{title} ({len(runs[model])})"]
        + [_of_seeds(round(value(x), 1) for x in runs[model]) for value in values]
        for model, title in names.items()
        if model in runs
    ]
    if not rows:
        return
    content = {
        "setting": setting(data, runs, names),
        "command": COMMAND,
        "columns": columns,
        "rows": rows,
    }
    text = yaml.safe_dump(content, sort_keys=False, width=100, default_flow_style=None)
    (DOCS / "results" / f"own_data_{name}.yaml").write_text(text, encoding="utf-8")


def _of_seeds(values):
    values = list(values)
    return values if len(values) > 1 else values[0]


def tables(results) -> None:
    for data, runs in results.items():
        write_table(
            f"{data}_proposals",
            runs,
            data,
            PROPOSALS,
            ["proposal generator", *(f"AR@{k}" for k in LIMITS)],
            [lambda x, k=k: last(x)[f"AR@{k}"] for k in LIMITS],
        )
        write_table(
            f"{data}_detection",
            runs,
            data,
            ONE_STAGE,
            ["model", "AP", "AP50", "AP75", "AR@100"],
            [lambda x, k=k: last(x)[k] for k in ("AP", "AP50", "AP75", "AR@100")],
        )
    runs = results["receipts"]
    objects = last(runs["rpn"][0])["by aspect ratio"]
    write_table(
        "receipts_by_ratio",
        runs,
        "receipts",
        PROPOSALS,
        ["AR@100 by longer over shorter side"]
        + [f"{ratio} ({objects[ratio]['objects']} objects)" for ratio in RATIOS],
        [lambda x, r=r: last(x)["by aspect ratio"][r]["AR@100"] for r in RATIOS],
    )


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def plots(results) -> None:
    """Recall against the number of proposals, recall by aspect ratio, and AP over iterations."""
    runs = results["receipts"]
    proposals = [(model, title) for model, title in PROPOSALS.items() if model in runs]
    _, axes = plt.subplots(figsize=(6, 4))
    for model, title in proposals:
        recall = [mean(last(x)[f"AR@{k}"] for x in runs[model]) for k in LIMITS]
        axes.plot(LIMITS, recall, marker="o", label=title)
    axes.set(xscale="log", xlabel="proposals per image", ylabel="AR", xticks=LIMITS)
    axes.set_xticklabels(LIMITS)
    _save(axes, "recall")

    _, axes = plt.subplots(figsize=(6, 4))
    width = 0.8 / len(proposals)
    for i, (model, title) in enumerate(proposals):
        recall = [
            mean(last(x)["by aspect ratio"][ratio]["AR@100"] for x in runs[model])
            for ratio in RATIOS
        ]
        axes.bar([x + i * width for x in range(len(RATIOS))], recall, width, label=title)
    axes.set(xlabel="longer over shorter side of the object", ylabel="AR@100")
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(RATIOS))], RATIOS)
    _save(axes, "by_ratio")

    _, axes = plt.subplots(figsize=(6, 4))
    for model, title in ONE_STAGE.items():
        if model in runs:
            iterations = sorted(runs[model][0]["curve"], key=int)
            ap = [mean(x["curve"][i]["AP"] for x in runs[model]) for i in iterations]
            axes.plot([int(i) for i in iterations], ap, marker="o", label=title)
    axes.set(xlabel="iterations", ylabel="AP")
    _save(axes, "curve")


def _save(axes, name):
    axes.legend(fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.01), ncol=2)
    axes.grid(alpha=0.3)
    axes.figure.tight_layout()
    axes.figure.savefig(DOCS / "pictures" / f"own_data_{name}.png", dpi=110)
    plt.close(axes.figure)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    results = read()
    tables(results)
    plots(results)


if __name__ == "__main__":
    main()
