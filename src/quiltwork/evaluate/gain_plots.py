"""The figure of what each party gains: bars with their numbers, or for many parties a curve of dots in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from quiltwork.evaluate import insight
from quiltwork.evaluate.drawing import BETTER, PUBLIC_GREY, WORSE, figure, label, labels, panel_grid, symmetric_log
from quiltwork.evaluate.metrics import Metric, number
from quiltwork.evaluate.scores import Scores

# more bars have no room for names and numbers
MOST_BARS = 24


def party_gains(scores: Scores) -> bytes:
    """For each method one panel of bars: what each party saves on its own text against its model alone."""
    # the base would stretch the axis and says nothing about composing
    methods = [name for name in scores.methods if name != "base"]
    if len(scores.parties) > MOST_BARS:
        return _crowd(scores, methods)
    across, down = panel_grid(len(methods))
    height = 0.8 + down * (0.85 + 0.3 * len(scores.parties))
    with figure(2.0 + 2.35 * across, height) as (canvas, png):
        panels = canvas.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        symmetric_log(panels[0].xaxis, _own(scores, methods))
        for axes, method in zip(panels, methods, strict=False):
            _gain_panel(axes, insight.gains(scores, method), method, scores.measure)
        for place, axes in enumerate(panels):
            axes.set_visible(place < len(methods))
            # a column whose lower panel is empty carries its scale one panel higher
            axes.tick_params(labelbottom=place + across >= len(methods))
        _widen(panels[0], _own(scores, methods))
        # parties without a score draw no bar, and their places count too
        panels[0].set_ylim(len(scores.parties) - 0.5, -0.5)
        # one panel alone is narrower than the line
        space = "\n" if across == 1 else " "
        note = f"{scores.metric} saved against the party alone,{space}on its own held-out data"
        canvas.supxlabel(f"{note}\n(right is better; grey: not clear)", fontsize=10)
    return png.getvalue()


def _own(scores: Scores, methods: Sequence[str]) -> list[float]:
    return [gain.own for method in methods for gain in insight.gains(scores, method) if gain.own is not None]


def _gain_panel(axes: Any, gains: Sequence[insight.Gain], method: str, metric: Metric) -> None:
    for i, gain in enumerate(gains):
        if gain.own is None:
            axes.text(0, i, " not scored", va="center", fontsize=7, color="#555555")
        else:
            _gain_bar(axes, i, gain.own, gain.own_error, _mark(gain.own, gain.own_error, metric)[0])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_title(label(method), fontsize=10)
    axes.set_yticks(range(len(gains)), labels([gain.party for gain in gains]))
    axes.spines[["top", "right"]].set_visible(False)


def _mark(own: float, error: float | None, metric: Metric) -> tuple[str, str]:
    """Colour and marker of a gain: better, worse, or grey where the difference is not clear."""
    found = insight.Difference(-own, error)
    if found.clearly_better(metric):
        return BETTER, "^"
    return (WORSE, "v") if found.clearly_worse(metric) else (PUBLIC_GREY, "o")


def _gain_bar(axes: Any, place: int, value: float, std: float | None, colour: str) -> None:
    axes.barh(place, value, xerr=std, color=colour, height=0.65, capsize=2)
    end = math.copysign(abs(value) + (std or 0.0), value)
    look = {"ha": "left" if value >= 0 else "right", "va": "center", "fontsize": 8}
    offset = (4 if value >= 0 else -4, 0)
    axes.annotate(number(value, sign=True), (end, place), offset, textcoords="offset points", **look)


def _widen(axes: Any, values: Sequence[float]) -> None:
    """Room for the numbers at the ends of the bars."""
    scale = axes.xaxis.get_transform()
    drawn = axes.get_xlim()
    low, high = scale.transform([min(*drawn, *values, 0.0), max(*drawn, *values, 0.0)])
    room = (0.32 if axes.get_xscale() == "linear" else 0.5) * (high - low)
    wide = [low - room * any(v < 0 for v in values), high + room * any(v >= 0 for v in values)]
    axes.set_xlim(*scale.inverted().transform(wide))


def _crowd(scores: Scores, methods: Sequence[str]) -> bytes:
    """For each method its gains in order of size, with twice their errors; colour says which are clear."""
    across, down = panel_grid(len(methods))
    with figure(2.0 + 2.6 * across, 0.8 + 3.4 * down) as (canvas, png):
        panels = canvas.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        symmetric_log(panels[0].yaxis, _own(scores, methods))
        for axes, method in zip(panels, methods, strict=False):
            _crowd_panel(axes, insight.gains(scores, method), method, scores.measure)
        for axes in panels[len(methods) :]:
            axes.set_visible(False)
        canvas.supxlabel("parties, in order of their gain", fontsize=10)
        canvas.supylabel(f"{scores.metric} saved against alone\n(up is better)", fontsize=10)
    return png.getvalue()


def _crowd_panel(axes: Any, gains: Sequence[insight.Gain], method: str, metric: Metric) -> None:
    known = sorted((gain.own, gain.own_error or 0.0) for gain in gains if gain.own is not None)
    counts = {BETTER: 0, WORSE: 0, PUBLIC_GREY: 0}
    for place, (own, error) in enumerate(known):
        colour, marker = _mark(own, error, metric)
        counts[colour] += 1
        axes.errorbar([place], [own], [metric.clear * error], color=colour, marker=marker, markersize=4, linewidth=0.8)
    axes.axhline(0, color="black", linewidth=0.8)
    told = f"{counts[BETTER]} gain, {counts[WORSE]} lose, {counts[PUBLIC_GREY]} unclear"
    axes.set_title(f"{label(method)}\n{told}", fontsize=9)
    axes.set_xticks([])
    axes.spines[["top", "right"]].set_visible(False)
