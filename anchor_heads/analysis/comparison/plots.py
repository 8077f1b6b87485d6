"""Plots as inline SVG, drawn in the colours of the page that they stand in.

A plot is PLOT_WIDTH units wide, about as many as a phone's window has pixels, so that its text can
be read there.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

PLOT_WIDTH, PLOT_HEIGHT = 340, 230
# Classes c0, c1, .. of the page set their colours.
NUM_COLORS = 6
_LEFT, _RIGHT, _TOP, _BOTTOM = 50, 10, 10, 40
# Models stand side by side, so that equal values do not hide each other.
_STEP_ASIDE = 5


class Line(NamedTuple):
    """The values of one model."""

    name: str
    index: int
    """Of its colour and its mark; see :func:`mark`."""
    values: Sequence[float | None]
    """One for each place on the x axis; None leaves it out."""


class Axis(NamedTuple):
    label: str
    ticks: Sequence[str]


def line_plot(lines: Sequence[Line], x: Axis, y_label: str, highest: float | None = None) -> str:
    """Values over categories, with a mark at each.

    Args:
        lines (sequence of Line): what is drawn.
        x (Axis): a tick for each value of the lines.
        y_label (str): what the values are.
        highest (float or None): end of the y axis, which starts at 0; None for a logarithmic axis
            over all values above 0.
    """
    columns = [_LEFT + _plot_width() * (i + 0.5) / len(x.ticks) for i in range(len(x.ticks))]
    scale = _linear(highest) if highest else _logarithmic(lines)
    parts = [_y_axis(scale, y_label), _x_axis(columns, x)]
    for i, line in enumerate(lines):
        aside = _STEP_ASIDE * (i - (len(lines) - 1) / 2)
        points = [
            (column + aside, scale.place(value), value, tick)
            for column, value, tick in zip(columns, line.values, x.ticks, strict=True)
            if value is not None and (highest or value > 0)
        ]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b, _, _ in points)
        parts.append(f'<polyline class="line {_color(line.index)}" points="{path}"/>')
        for a, b, value, tick in points:
            title = escape(f"{line.name}, {tick}: {value:,.4g}")
            parts.append(f"<g><title>{title}</title>{mark(line.index, a, b)}</g>")
    return _svg(parts, y_label)


def histogram(lines: Sequence[Line], x_label: str, y_label: str) -> str:
    """Shares in percent of equal bins over [0, 1], as steps."""
    highest = max(value for line in lines for value in line.values)
    scale = _linear(next(end for end in (5, 10, 25, 50, 100) if end >= highest))
    places = [_LEFT + _plot_width() * i / 5 for i in range(6)]
    axis = Axis(x_label, [f"{i / 5:g}" for i in range(6)])
    parts = [_y_axis(scale, y_label), _x_axis(places, axis)]
    for line in lines:
        step = _plot_width() / len(line.values)
        path = f"M{_LEFT},{scale.place(0):.1f}"
        for i, value in enumerate(line.values):
            path += f"V{scale.place(value):.1f}H{_LEFT + (i + 1) * step:.1f}"
        path += f"V{scale.place(0):.1f}"
        title = f"<title>{escape(line.name)}</title>"
        parts.append(f'<path class="line {_color(line.index)}" d="{path}">{title}</path>')
    return _svg(parts, y_label)


def mark(index: int, x: float, y: float) -> str:
    """The mark of a model around x, y; colours and shapes repeat, together after 30 models."""
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>',
        f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7"/>',
        f'<path d="M{x:.1f},{y - 4.5:.1f}l4.5,8h-9z"/>',
        f'<path d="M{x:.1f},{y - 5:.1f}l5,5l-5,5l-5,-5z"/>',
        f'<path d="M{x:.1f},{y + 4.5:.1f}l4.5,-8h-9z"/>',
    )
    return f'<g class="mark {_color(index)}">{shapes[index % len(shapes)]}</g>'


class _Scale(NamedTuple):
    """The y axis."""

    start: float
    end: float
    ticks: Sequence[float]
    is_logarithmic: bool = False

    def place(self, value: float) -> float:
        start, end = self.start, self.end
        if self.is_logarithmic:
            start, end, value = math.log(start), math.log(end), math.log(value)
        return _TOP + (PLOT_HEIGHT - _TOP - _BOTTOM) * (end - value) / (end - start)


def _linear(highest: float) -> _Scale:
    return _Scale(0, highest, [highest * i / 5 for i in range(6)])


def _logarithmic(lines) -> _Scale:
    """From a power of ten to another, around all values above 0."""
    values = [value for line in lines for value in line.values if value] or [1.0]
    first = math.floor(math.log10(min(values)))
    last = max(first + 1, math.ceil(math.log10(max(values))))
    return _Scale(10.0**first, 10.0**last, [10.0**i for i in range(first, last + 1)], True)


def _y_axis(scale: _Scale, label: str) -> str:
    parts = []
    for tick in scale.ticks:
        y = scale.place(tick)
        text = f"{tick / 1000:g}k" if tick >= 1000 else f"{tick:g}"
        parts.append(f'<path class="rule" d="M{_LEFT},{y:.1f}H{PLOT_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    middle = (_TOP + PLOT_HEIGHT - _BOTTOM) / 2
    turned = f'transform="translate(11,{middle:.1f}) rotate(-90)"'
    parts.append(f'<text {turned} text-anchor="middle">{escape(label)}</text>')
    return "".join(parts)


def _x_axis(places: Sequence[float], axis: Axis) -> str:
    parts = [
        f'<text x="{place:.1f}" y="{PLOT_HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
        f"{escape(tick)}</text>"
        for place, tick in zip(places, axis.ticks, strict=True)
    ]
    middle = _LEFT + _plot_width() / 2
    parts.append(
        f'<text x="{middle}" y="{PLOT_HEIGHT - 6}" text-anchor="middle">{escape(axis.label)}</text>'
    )
    return "".join(parts)


def _svg(parts: Sequence[str], label: str) -> str:
    view = f'viewBox="0 0 {PLOT_WIDTH} {PLOT_HEIGHT}"'
    return f'<svg {view} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _plot_width() -> float:
    return PLOT_WIDTH - _LEFT - _RIGHT


def _color(index: int) -> str:
    """A CSS class that sets the colour."""
    return f"c{index % NUM_COLORS}"
