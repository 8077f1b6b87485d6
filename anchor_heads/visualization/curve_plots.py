"""Plots of precision and recall, and of a confusion matrix."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from .drawing import plain_text

RECALL = np.linspace(0, 1, 101)
DPI = 120
# With more classes, curves cannot be told apart, and numbers have no place in their cells.
MAX_NAMED_CURVES = 10
MAX_NUMBERED_CLASSES = 25


@plain_text
def plot_precision_recall(results: Sequence, path: str) -> None:
    """Draw the precision-recall curves of all classes at IoU 0.5, and their mean.

    Args:
        results (sequence of ClassResult): see :mod:`anchor_heads.evaluation.curves`; classes
            without objects are left out.
        path (str): of the PNG file.
    """
    results = [result for result in results if result.num_objects]
    named = len(results) <= MAX_NAMED_CURVES
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.add_subplot(xlabel="recall", ylabel="precision", xlim=(0, 1.005), ylim=(0, 1.02))
    colors = matplotlib.color_sequences["tab10"]
    curves = []  # by themselves, names that start with "_" are not in the legend
    for i, result in enumerate(results):
        label = f"{result.name}: {result.ap50:.3f}"
        color, width = (colors[i], 1.5) if named else ("0.75", 0.7)
        curve = axes.plot(RECALL, result.precision, label=label, color=color, linewidth=width)
        curves += curve if named else []
        if named and result.best:
            axes.plot(result.best.recall, result.best.precision, "o", color=color, zorder=3)
    if results:
        mean = np.mean([result.precision for result in results], axis=0)
        ap50 = np.mean([result.ap50 for result in results])
        label = f"mean of {len(results)}: {ap50:.3f}"
        curves += axes.plot(RECALL, mean, "k", linewidth=2.5, label=label)
        title = "AP50 (dot: best F1)" if named else "AP50"
        axes.legend(handles=curves, title=title, loc="lower left")
    axes.set_title("Precision and recall at IoU 0.5")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=DPI)


@plain_text
def plot_confusion_matrix(counts: np.ndarray, names: Sequence[str], path: str) -> None:
    """Draw a confusion matrix, coloured by the share of each annotated class.

    Args:
        counts (ndarray): (K, K) rows are annotated, columns detected classes.
        names (sequence of str): of the K classes.
        path (str): of the PNG file.
    """
    numbered = len(names) <= MAX_NUMBERED_CLASSES
    side = min(4 + (0.55 if numbered else 0.16) * len(names), 24)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot(xlabel="detected", ylabel="annotated", title="Confusion matrix")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = 9 if numbered else 6
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 6 else 0, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    if numbered:
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=size)
    figure.colorbar(image, label="share of the row", shrink=0.8)
    figure.savefig(path, dpi=DPI)
