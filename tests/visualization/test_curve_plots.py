"""Plots with unusual names. What they show of an evaluation: tests/evaluation/test_curves.py."""

import numpy as np
from matplotlib.figure import Figure

from anchor_heads.evaluation.curves import ClassResult
from anchor_heads.visualization.curve_plots import plot_confusion_matrix, plot_precision_recall

NAMES = ["$_$", "_bag"]  # neither a formula nor what matplotlib leaves out of legends


def test_names_are_shown_as_they_are(tmp_path, monkeypatch):
    figures, save = [], Figure.savefig

    def save_and_keep(figure, *args, **kwargs):
        figures.append(figure)
        save(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", save_and_keep)
    results = [ClassResult(x, 1, 0.5, 0.5, 0.5, None, np.full(101, 0.5)) for x in NAMES]
    plot_precision_recall(results, str(tmp_path / "curves.png"))
    plot_confusion_matrix(np.eye(2, dtype=int), NAMES, str(tmp_path / "matrix.png"))
    legend = figures[0].axes[0].get_legend().get_texts()
    assert [x.get_text() for x in legend] == ["$_$: 0.500", "_bag: 0.500", "mean of 2: 0.500"]
    assert [x.get_text() for x in figures[1].axes[0].get_xticklabels()] == NAMES
