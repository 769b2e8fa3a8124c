"""Figures of calibration as PNG bytes, from the scores alone: coverage and the histogram of u, or reliability.

They show all parties' rows together, method by method; a party's own figures stand in its cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quiltwork.evaluate.drawing import OKABE_ITO, figure, label
from quiltwork.evaluate.pooling import BINS, LEVELS, pooled_methods
from quiltwork.evaluate.scores import Scores

STYLES = ("-", "--", ":", "-.")
# a bin with fewer of the rows says nothing
MIN_SHARE = 0.005


def calibrated(scores: Scores) -> bool:
    """Whether there is anything to draw."""
    return any({"coverage_50", "bin_0_share"} & means.keys() for means in pooled_methods(scores).values())


def calibration(scores: Scores) -> bytes:
    """How often what was predicted came about, for every method that says so."""
    known = pooled_methods(scores)
    numbers = {name: means for name, means in known.items() if "coverage_50" in means}
    classes = {name: means for name, means in known.items() if "bin_0_share" in means}
    if numbers:
        return _of_numbers(numbers)
    return _of_classes(classes)


def _look(place: int) -> dict[str, Any]:
    style = STYLES[(place // len(OKABE_ITO)) % len(STYLES)]
    return {"color": OKABE_ITO[place % len(OKABE_ITO)], "linestyle": style, "linewidth": 1.6}


def _of_numbers(known: Mapping[str, Mapping[str, float]]) -> bytes:
    with figure(10.4, 4.2) as (canvas, png):
        left, right = canvas.subplots(1, 2)
        levels, edges = np.array(LEVELS), np.linspace(0, 1, BINS + 1)
        for i, (name, means) in enumerate(known.items()):
            off = [100 * means[f"coverage_{level}"] - level for level in LEVELS]
            left.plot(levels, off, marker="o", markersize=4, label=label(name), **_look(i))
            shares = np.array([means[f"pit_{j}"] for j in range(BINS)]) * BINS
            right.stairs(shares, edges, baseline=None, **_look(i))
        left.axhline(0, color="black", linewidth=0.8)
        left.set(title="Rows inside predictive intervals", xlabel="level of the interval, %")
        left.set_ylabel("rows inside, less the level, % points\n(below zero: too sure)")
        left.set_xticks(levels)
        right.axhline(1, color="black", linewidth=0.8)
        right.set(
            title="Where responses fall in the prediction", xlabel="predicted probability of less than the response"
        )
        right.set_ylabel("density (flat at 1: calibrated;\nends high: too sure)")
        right.set_ylim(bottom=0)
        _finish(canvas, (left, right))
    return png.getvalue()


def _of_classes(known: Mapping[str, Mapping[str, float]]) -> bytes:
    with figure(7.4, 4.6) as (canvas, png):
        axes = canvas.add_subplot(xlabel="predicted probability of the likeliest class", ylabel="how often it is right")
        axes.set_title("Reliability of classes (below the diagonal: too sure)")
        for i, (name, means) in enumerate(known.items()):
            bins = [j for j in range(BINS) if means[f"bin_{j}_share"] > MIN_SHARE]
            share = np.array([means[f"bin_{j}_share"] for j in bins])
            sure = np.array([means[f"bin_{j}_confidence"] for j in bins]) / share
            right = np.array([means[f"bin_{j}_hits"] for j in bins]) / share
            axes.plot(sure, right, marker="o", markersize=4, label=label(name), **_look(i))
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.8)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
        _finish(canvas, (axes,))
    return png.getvalue()


def _finish(canvas: Any, panels: tuple[Any, ...]) -> None:
    for axes in panels:
        axes.grid(alpha=0.3)
    canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=9)
