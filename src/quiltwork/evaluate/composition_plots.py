"""Figures of how a composition came about, as PNG bytes: its objective, its machines, how many of them it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from quiltwork.evaluate.drawing import BETTER, OKABE_ITO, PUBLIC_GREY, WORSE, figure, label, labels, symmetric_log
from quiltwork.evaluate.plots import MARKERS

# below this a decrease is rounding of the sums in the objective
ROUNDING = 1e-12
# so many machines have room for a name each
MOST_NAMED = 40
# a longer reason is cut off; the report has it in full
MOST_REASON = 72


def objective_steps(objectives: Mapping[str, Sequence[float]]) -> bytes:
    """What methods minimised: its value at every step, and by how much each step lowered it.

    A step that raised it, which majorisation rules out, is marked.

    Args:
        objectives: for each method its values, one a step.
    """
    with figure(9.4, 3.9) as (canvas, png):
        left, right = canvas.subplots(1, 2)
        for i, (name, values) in enumerate(objectives.items()):
            look = {"color": OKABE_ITO[i % len(OKABE_ITO)], "marker": MARKERS[i % len(MARKERS)], "markersize": 4}
            left.plot(range(len(values)), values, label=label(name), **look)
            _decreases(right, np.asarray(values, dtype=float), look)
        left.set(title="Objective", xlabel="step", ylabel="nats")
        right.set(title="Lowered by each step", xlabel="step", ylabel="nats", yscale="log")
        for axes in (left, right):
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.grid(alpha=0.3)
        if len(objectives) > 1:
            left.legend(frameon=False)
    return png.getvalue()


def _decreases(axes: Any, values: Any, look: Mapping[str, Any]) -> None:
    falls = values[:-1] - values[1:]
    # relative to the objective, what the sum of so many terms cannot resolve
    noise = ROUNDING * np.maximum(np.abs(values[:-1]), 1.0)
    steps = np.arange(1, len(values))
    axes.plot(steps, np.where(falls > noise, falls, np.nan), **look)
    if (rose := falls < -noise).any():
        axes.plot(steps[rose], -falls[rose], linestyle="", marker="X", markersize=11, color=WORSE, label="rose")
        axes.legend(frameon=False)


class Point(NamedTuple):
    """A score of a composition of ``machines`` machines, and its error where that is known."""

    machines: int
    value: float
    error: float | None = None


def likelihood_by_machines(
    curves: Mapping[str, Sequence[Point]],
    *,
    pooled: Point | None = None,
    per: str = "machines composed, in one random order",
) -> bytes:
    """Negative log-likelihood per row against the number of machines, beside the fit on all data.

    Args:
        curves: for each method its points.
        pooled: the fit on all data together; its ``machines`` is not used.
        per: what the horizontal axis counts.
    """
    with figure(8.6, 4.4) as (canvas, png):
        axes = canvas.add_subplot(xlabel=f"{per} (logarithmic)", ylabel="nats per row")
        axes.set_title("Negative log-likelihood on held-out rows (down is better)")
        values = [point.value for points in curves.values() for point in points]
        symmetric_log(axes.yaxis, [*values, pooled.value] if pooled else values)
        for i, (name, points) in enumerate(curves.items()):
            ordered = sorted(points)
            look = {"color": OKABE_ITO[i % len(OKABE_ITO)], "marker": MARKERS[i % len(MARKERS)], "markersize": 6}
            errors = [point.error or 0.0 for point in ordered]
            across, up = [p.machines for p in ordered], [p.value for p in ordered]
            axes.errorbar(across, up, errors, label=label(name), capsize=2, linewidth=1.5, **look)
        if pooled is not None:
            _reference(axes, pooled)
        counts = sorted({point.machines for points in curves.values() for point in points})
        axes.set_xscale("log", base=2)
        axes.set_xticks(counts, [str(count) for count in counts])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    return png.getvalue()


def _reference(axes: Any, pooled: Point) -> None:
    axes.axhline(pooled.value, color="black", linestyle="--", linewidth=1.2, label="fit on all data together")
    if pooled.error:
        axes.axhspan(pooled.value - pooled.error, pooled.value + pooled.error, color=PUBLIC_GREY, alpha=0.25, lw=0)


def machine_distances(distances: Mapping[str, float], excluded: Mapping[str, str], *, method: str) -> bytes:
    """How far each machine's own model is from the composed one; machines left out are named with the reason.

    Args:
        distances: for each party how far its model is from the composed one, nats per row.
        excluded: parties that took no part, each with its reason.
        method: name of the composition.
    """
    order = sorted(distances, key=distances.__getitem__)
    named = len(order) <= MOST_NAMED
    smallest = min((value for value in distances.values() if value > 0), default=1e-9)
    with figure(9.4, 1.5 + (0.26 if named else 0.12) * len(order)) as (canvas, png):
        axes = canvas.add_subplot(xlabel="bound on the divergence from the machine's own model, nats per row")
        axes.set_title(f"Machines in {label(method)}: {len(order) - len(excluded)} took part, {len(excluded)} left out")
        # within a factor of ten a logarithmic scale has no round numbers to show
        if max(distances.values(), default=0.0) > 10 * smallest:
            axes.set_xscale("log")
        for place, party in enumerate(order):
            # zero has no logarithm: an arrow at the end
            value, marker = (distances[party], "o") if distances[party] > 0 else (smallest / 2, "<")
            left_out = party in excluded
            look = {"color": WORSE if left_out else BETTER, "marker": "X" if left_out else marker}
            axes.plot([value], [place], linestyle="", markersize=8 if left_out else 5, **look)
        axes.set_yticks(range(len(order)), labels(order) if named else [""] * len(order), fontsize=8)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(-0.8, len(order) - 0.2)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        for place, party in enumerate(order):
            if party in excluded:
                told = excluded[party] if named else f"{party}: {excluded[party]}"
                _reason(axes, place, max(distances[party], smallest / 2), told)
    return png.getvalue()


def _reason(axes: Any, place: int, value: float, told: str) -> None:
    """Why a machine was left out, on the side of its mark that has more room."""
    leftwards = axes.transAxes.inverted().transform(axes.transData.transform((value, place)))[0] > 0.5
    short = (told if len(told) <= MOST_REASON else f"{told[: MOST_REASON - 1]}…").replace("$", r"\$")
    look = {"ha": "right" if leftwards else "left", "va": "center", "fontsize": 8, "color": WORSE}
    offset = (-8 if leftwards else 8, 0)
    axes.annotate(short, (value, place), offset, textcoords="offset points", annotation_clip=False, **look)
