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
import numpy as np  # noqa: E402
import yaml  # noqa: E402

DOCS = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
LIMITS = (30, 100, 300, 1000)
RATIOS = {
    "to 2": "up to 2:1",
    "to 4": "2:1 to 4:1",
    "to 8": "4:1 to 8:1",
    "over 8": "over 8:1",
}
PROPOSALS = {
    "rpn": "RPN, preset anchors",
    "rpn_suggested": "RPN, suggested anchors",
    "free_anchor_rpn": "FreeAnchorRPN, preset anchors",
    "free_anchor_rpn_suggested": "FreeAnchorRPN, suggested anchors",
    "ga_rpn_published": "GuidedAnchorRPN, published settings",
    "ga_rpn": "GuidedAnchorRPN",
    "da_rpn": "DynamicAnchorRPN",
}
ONE_STAGE = {
    "retinanet": "RetinaNet, preset anchors",
    "retinanet_suggested": "RetinaNet, suggested anchors",
    "free_anchor": "FreeAnchor, preset anchors",
    "free_anchor_suggested": "FreeAnchor, suggested anchors",
    "ga_retinanet": "GA-RetinaNet",
    "da_retinanet": "DA-RetinaNet",
}
# With gradients clipped at 35, as the recipes of one-stage detectors had it at first.
CLIPPED_AT_35 = {
    "retinanet_p3_clip35": "RetinaNet on P3 to P5, preset anchors",
    "retinanet_suggested_p3_clip35": "RetinaNet on P3 to P5, suggested anchors",
    "ga_retinanet_p3_clip35": "GA-RetinaNet on P3 to P5",
    "da_retinanet_p3_clip35": "DA-RetinaNet on P3 to P5",
    **{f"{model}_clip35": title for model, title in ONE_STAGE.items()},
    "free_anchor_w075_clip35": "FreeAnchor, preset anchors, IoU^0.75",
    "free_anchor_l1_clip35": "FreeAnchor, preset anchors, smooth L1",
    "free_anchor_suggested_w075_clip35": "FreeAnchor, suggested anchors, IoU^0.75",
    "free_anchor_suggested_l1_clip35": "FreeAnchor, suggested anchors, smooth L1",
    "free_anchor_p3_w075_clip35": "FreeAnchor on P3 to P5, preset anchors, IoU^0.75",
}
TWO_STAGE = {
    "faster_rcnn": "RPN, preset anchors",
    "faster_rcnn_suggested": "RPN, suggested anchors",
    "free_anchor_faster_rcnn": "FreeAnchorRPN, preset anchors",
    "free_anchor_faster_rcnn_suggested": "FreeAnchorRPN, suggested anchors",
    "ga_faster_rcnn": "GuidedAnchorRPN",
    "da_faster_rcnn": "DynamicAnchorRPN",
}
DATA = {"receipts": "Receipts", "bccd": "BCCD", "aquarium": "Aquarium"}
# The models of the table over all data sets.
SUMMARY = ("retinanet", "retinanet_suggested", "free_anchor", "ga_retinanet", "da_retinanet")
# Of each data set, label of a run of tuning.txt: what it changes in which recipe, and its metric.
STEPS = {"receipts": {
    "GuidedAnchorRPN": ("AR@100", {
        "ga_rpn": "recipe",
        "ga_rpn_level": "level by the area, as published",
        "ga_rpn_shape": "from squares, as published",
        "ga_rpn_loss": "bounded IoU loss of the shapes, as published",
        "ga_rpn_prior": "objectness from 0.5, as published",
        "ga_rpn_beta": "box loss as in Detectron2",
        "ga_rpn_small": "sizes for the smallest objects, 6 to 102 pixels",
        "ga_rpn_batch": "300 sampled anchors and shapes per image",
        "ga_rpn_inverted": "inverted location label, as in mmdetection 2.x",
        "ga_rpn_clip5": "gradients clipped at 5",
    }),
    "DynamicAnchorRPN": ("AR@100", {
        "da_rpn": "recipe",
        "da_rpn_level": "level by the longest side, as published",
        "da_rpn_shape": "from squares, as published",
        "da_rpn_prior": "objectness from 0.5, as published",
        "da_rpn_beta": "box loss as in Detectron2",
        "da_rpn_batch": "300 sampled anchors per image",
        "da_rpn_clip5": "gradients clipped at 5",
    }),
    "RPN, suggested anchors": ("AR@100", {
        "rpn_suggested": "recipe",
        "rpn_beta": "box loss of the predicted anchors",
        "rpn_suggested_clip5": "gradients clipped at 5",
    }),
    "RetinaNet, suggested anchors": ("AP", {
        "retinanet_suggested": "recipe",
        "retinanet_clip1": "gradients clipped at 1",
        "retinanet_clip35": "gradients clipped at 35",
    }),
    "RetinaNet, suggested anchors, clipped at 35": ("AP", {
        "retinanet_prior": "PRIOR_PROB 0.01, as published",
        "retinanet_lr2": "twice the learning rate",
        "retinanet_scratch": "from random weights, no stage frozen",
    }),
    "FreeAnchor, suggested anchors": ("AP", {
        "free_anchor_suggested": "recipe",
        "free_anchor_clip1": "gradients clipped at 1",
        "free_anchor_clip35": "gradients clipped at 35",
    }),
    "FreeAnchor, suggested anchors, clipped at 35": ("AP", {
        "free_anchor_w2": "IoU^2 as localisation likelihood",
        "free_anchor_w075": "IoU^0.75 as localisation likelihood",
        "free_anchor_l1": "localisation likelihood from smooth L1, as published",
        "free_anchor_t4": "boxes count from IoU 0.4 on",
        "free_anchor_lr2": "twice the learning rate",
    }),
    "GA-RetinaNet": ("AP", {
        "ga_retinanet": "recipe",
        "ga_retinanet_clip1": "gradients clipped at 1",
        "ga_retinanet_clip35": "gradients clipped at 35",
        "ga_retinanet_iou5": "-log IoU as box loss",
        "ga_retinanet_smooth": "smooth L1 as box loss, as in RetinaNet",
        "ga_retinanet_thr46": "IoU thresholds 0.4 and 0.6",
        "ga_retinanet_shape2": "twice the weight of the shape loss",
        "ga_retinanet_shape4": "four times the weight of the shape loss",
        "ga_retinanet_w10": "BBOX_REG_WEIGHTS (10, 10, 5, 5)",
    }),
    "GA-RetinaNet, clipped at 35": ("AP", {
        "ga_retinanet_init": "initial std 0.01 and one IoU threshold, as published",
        "ga_retinanet_l1": "initial std 0.01, one IoU threshold and the published box loss",
        "ga_retinanet_iou": "-log IoU as box loss",
        "ga_retinanet_half": "sizes of half, 8 to 102 pixels",
        "ga_retinanet_small": "sizes for the smallest objects, 6 to 406 pixels",
        "ga_retinanet_lr2": "twice the learning rate",
    }),
    "DA-RetinaNet": ("AP", {
        "da_retinanet": "recipe",
        "da_retinanet_clip35": "gradients clipped at 35",
    }),
    "DA-RetinaNet, clipped at 35": ("AP", {
        "da_retinanet_lr2": "twice the learning rate",
        "da_retinanet_init": "initial std 0.01, as published, and IoU thresholds 0.4 and 0.5",
        "da_retinanet_init_thresholds": "initial std 0.01 and one IoU threshold, as published",
    }),
    "DA-RetinaNet, clipped at 35, initial std 0.01, IoU thresholds 0.4 and 0.5": ("AP", {
        "da_retinanet_init_prior": "PRIOR_PROB 0.01, as published",
        "da_retinanet_top5": "at most 5 positives per object (not in the package)",
        "da_retinanet_weights": "every object has the same weight (not in the package)",
    }),
}, "bccd": {
    "RetinaNet": ("AP", {
        "retinanet": "recipe",
        "retinanet_clip1": "gradients clipped at 1",
        "retinanet_clip35": "gradients clipped at 35",
    }),
    "FreeAnchor, clipped at 35": ("AP", {
        "free_anchor_clip35": "the other settings of the recipe",
        "free_anchor_w2": "IoU^2 as localisation likelihood",
        "free_anchor_w075": "IoU^0.75 as localisation likelihood",
        "free_anchor_l1": "localisation likelihood from smooth L1, as published",
    }),
}, "aquarium": {
    "FreeAnchor": ("AP", {
        "free_anchor": "recipe",
        "free_anchor_clip35": "gradients clipped at 35",
    }),
    "FreeAnchor, clipped at 35": ("AP", {
        "free_anchor_bag20": "20 anchors in a bag",
        "free_anchor_alpha": "negative term three times the weight of the positive",
        "free_anchor_t4": "boxes count from IoU 0.4 on",
        "free_anchor_lr2": "twice the learning rate",
    }),
}}  # fmt: skip
COMMAND = "python docs/own_data/measure.py --data DIR --weights tf_efficientnet_lite0.pth"


Runs = dict[str, list[dict]]  # by model, one for each seed


def read(folder: Path) -> dict[str, Runs]:
    """The results by data set."""
    results = defaultdict(lambda: defaultdict(list))
    for path in sorted(folder.glob("*/*.json")):
        result = json.loads(path.read_text("utf-8"))
        results[path.parent.name][path.stem.rsplit("-", 1)[0]].append(result)
    return results


def last(result: dict) -> dict:
    """The numbers at the end of a training."""
    return result["curve"][max(result["curve"], key=int)]


def setting(data: str, runs: Runs, names: dict[str, str], where: str = "the model") -> str:
    """How a table was measured; ``where``: what the number of seeds stands after."""
    results = [x for model, run in runs.items() if model in names for x in run]
    one = results[0]
    seconds = [x["cpu seconds"] for x in results]
    several = any(len(run) > 1 for model, run in runs.items() if model in names)
    spread = (
        f" Mean (minimum to maximum) over the seeds, whose number is in parentheses after {where}."
        if several
        else f" Seed {one['seed']}."
    )
    images = f"{one['batch']} image{'s' * (one['batch'] > 1)}"
    return (
        f"{data}, {one['test images']} test images. EfficientNet-Lite0 from ImageNet, "
        f"{one['iterations']} iterations of {images}, random crops at a short side of "
        f"{one['short side']}, AdamW at {one['learning rate']}, one CPU thread, "
        f"{min(seconds)} to {max(seconds)} s for a training with its evaluations.{spread}"
    )


def write_table(name, setting, columns, rows, command=COMMAND) -> None:
    content = {"setting": setting, "command": command, "columns": columns, "rows": rows}
    text = yaml.safe_dump(
        content, sort_keys=False, width=100, default_flow_style=None, allow_unicode=True
    )
    (DOCS / "results" / f"own_data_{name}.yaml").write_text(text, encoding="utf-8")


def write_runs(data, name, runs: Runs, names, columns, values) -> None:
    """A table with a row for each measured model; of one model there is nothing to compare."""
    rows = [
        [f"{title} ({len(runs[model])})", *(_of_seeds(value, runs[model]) for value in values)]
        for model, title in names.items()
        if model in runs
    ]
    if len(rows) > 1:
        write_table(f"{data}_{name}", setting(DATA[data], runs, names), columns, rows)


def _metric(name):
    return lambda result: last(result)[name]


def _of_seeds(value, results):
    values = [round(value(x), 1) for x in results]
    return values if len(values) > 1 else (values or ["–"])[0]


def tables(results) -> None:
    recall = [f"AR@{k}" for k in LIMITS]
    precision = ["AP", "AP50", "AP75", "AR@100"]
    for data, runs in results.items():
        for name, names, first, metrics in (
            ("proposals", PROPOSALS, "proposal generator", recall),
            ("detection", ONE_STAGE, "model", precision),
            ("clipped_at_35", CLIPPED_AT_35, "model", precision),
            ("two_stage", TWO_STAGE, "Faster R-CNN with proposals of", precision),
        ):
            write_runs(data, name, runs, names, [first, *metrics], [_metric(x) for x in metrics])
    runs = results["receipts"]
    objects = last(runs["rpn"][0])["by aspect ratio"]
    write_runs(
        "receipts",
        "by_ratio",
        runs,
        PROPOSALS,
        ["AR@100 by longer over shorter side"]
        + [f"{name} ({objects[x]['objects']} objects)" for x, name in RATIOS.items()],
        [lambda x, r=r: last(x)["by aspect ratio"][r]["AR@100"] for r in RATIOS],
    )


def summary(results: dict[str, Runs]) -> None:
    """The AP of the one-stage detectors on all data sets."""
    names = {"receipts": "text lines", "bccd": "blood cells", "aquarium": "animals"}
    runs = {model: [results[data].get(model, []) for data in names] for model in SUMMARY}
    rows = [
        [ONE_STAGE[model], *(_of_seeds(_metric("AP"), x) for x in runs[model])] for model in SUMMARY
    ]
    seeds = sorted({len(x) for of_data in runs.values() for x in of_data if x})
    text = (
        f"AP: mean (minimum to maximum) of {' or '.join(map(str, seeds))} seeds; – = not measured, "
        "as preset anchors reach almost all objects. EfficientNet-Lite0 from ImageNet, a short "
        "side of 240 pixels, short trainings. Preset anchors fit the text lines of receipts badly "
        "and blood cells well; of the animals in an aquarium they miss the smallest."
    )
    write_table("summary", text, ["model", *names.values()], rows)


def steps(data: str, runs: Runs) -> None:
    """The table of what the settings of the recipes change on a data set."""
    rows = [
        [
            f"{model}: {change}" + f" ({len(runs[label])})" * (len(runs[label]) > 1),
            metric,
            _of_seeds(_metric(metric), runs[label]),
        ]
        for model, (metric, labels) in STEPS[data].items()
        for label, change in labels.items()
        if label in runs
    ]
    labels = {label: label for _, group in STEPS[data].values() for label in group}
    images = f"{DATA[data]}, other images than those of the tables above"
    text = setting(images, runs, labels, "the setting; without one, seed 0")
    command = f"{COMMAND} --runs docs/own_data/tuning.txt --results docs/own_data/tuning --tuning"
    write_table(f"{data}_steps", text, ["setting", "metric", "value"], rows, command)


def mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


def style(model: str) -> dict:
    """Colour by method; dashed and hatched with suggested anchors, dotted if as published."""
    methods = ("free_anchor", "ga_", "da_")
    colour = next((i for i, name in enumerate(methods, 1) if model.startswith(name)), 0)
    line = "--" if model.endswith("_suggested") else ":" if model.endswith("_published") else "-"
    return {"color": f"C{colour}", "linestyle": line}


def plot_lines(axes, runs: Runs, names: dict[str, str], xs, value) -> None:
    """A line for each measured model through the means of its seeds, with their range.

    Args:
        value (callable): takes a result and one of ``xs``, returns a number.
    """
    for model, title in names.items():
        if model in runs:
            values = np.array([[value(x, at) for at in xs] for x in runs[model]])
            line = values.mean(axis=0)
            spread = np.stack([line - values.min(axis=0), values.max(axis=0) - line])
            axes.errorbar(xs, line, spread, marker="o", capsize=2, label=title, **style(model))


def plots(results) -> None:
    """Recall against the number of proposals, recall by aspect ratio, and AP over iterations."""
    runs = results["receipts"]
    _, axes = plt.subplots(figsize=(6, 4))
    plot_lines(axes, runs, PROPOSALS, LIMITS, lambda x, k: last(x)[f"AR@{k}"])
    axes.set(xscale="log", xlabel="proposals per image", ylabel="AR", xticks=LIMITS)
    axes.set_xticklabels(LIMITS)
    axes.minorticks_off()
    _save(axes, "recall")

    proposals = [(model, title) for model, title in PROPOSALS.items() if model in runs]
    _, axes = plt.subplots(figsize=(6, 4))
    width = 0.8 / len(proposals)
    for i, (model, title) in enumerate(proposals):
        recall = [
            mean(last(x)["by aspect ratio"][ratio]["AR@100"] for x in runs[model])
            for ratio in RATIOS
        ]
        colour, line = style(model).values()
        hatch = {"--": "///", ":": "..."}.get(line)
        xs = [x + i * width for x in range(len(RATIOS))]
        axes.bar(xs, recall, width, label=title, color=colour, hatch=hatch, edgecolor="white")
    axes.set(xlabel="longer over shorter side of the object", ylabel="AR@100")
    axes.set_xticks([x + 0.4 - width / 2 for x in range(len(RATIOS))], RATIOS.values())
    _save(axes, "by_ratio")

    _, axes = plt.subplots(figsize=(6, 4))
    iterations = sorted(map(int, runs["retinanet"][0]["curve"]))
    plot_lines(axes, runs, ONE_STAGE, iterations, lambda x, i: x["curve"][str(i)]["AP"])
    axes.set(xlabel="iterations", ylabel="AP", xticks=iterations)
    _save(axes, "curve")


def _save(axes, name):
    axes.legend(
        fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.01), ncol=2, handlelength=3.5
    )
    axes.grid(alpha=0.3)
    axes.figure.tight_layout()
    axes.figure.savefig(DOCS / "pictures" / f"own_data_{name}.png", dpi=110)
    plt.close(axes.figure)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    results = read(RESULTS)
    tables(results)
    summary(results)
    plots(results)
    for data, runs in read(RESULTS.parent / "tuning").items():
        if data in STEPS:
            steps(data, runs)


if __name__ == "__main__":
    main()
