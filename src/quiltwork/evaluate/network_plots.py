"""Figures of models that answer rows, as PNG bytes: owners against each other, classes, knowledge, places to stitch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

from quiltwork.evaluate.drawing import (
    OKABE_ITO,
    PUBLIC_GREY,
    Grid,
    figure,
    heat_map,
    label,
    labels,
    limit_of,
)
from quiltwork.evaluate.network_means import ENSEMBLE, flips_at_home
from quiltwork.evaluate.network_views import POOLED, class_table
from quiltwork.evaluate.pareto import front
from quiltwork.evaluate.scores import Scores

MARKERS = "osD^vPX<>hp"
# pairs of owners beyond this are not drawn
MOST_PANELS = 6
# in a map of more cells numbers have no room
MOST_NUMBERED = 400


def owners_points(scores: Scores) -> dict[str, dict[str, float]]:
    """Models scored on every party's own rows, by name: own models as ``alone: PARTY``."""
    own = [p for p in scores.parties if p in scores.domains]
    rows = {name: row.domains for name, row in scores.methods.items()}
    rows |= {f"alone: {party}": row.domains for party, row in scores.alone.items()}
    complete = {name: cells for name, cells in rows.items() if len(own) > 1 and set(own) <= cells.keys()}
    return {name: {p: cells[p].value for p in own} for name, cells in complete.items()}


def owners_pareto(scores: Scores) -> bytes:
    """Every model's metric for one owner against another's, a panel a pair; the line is the front of that pair."""
    points = owners_points(scores)
    owners = list(next(iter(points.values())))
    pairs = list(combinations(owners, 2))[:MOST_PANELS]
    across, down = min(len(pairs), 3), -(-len(pairs) // 3)
    looks = _looks(list(points))
    with figure(3.4 + 4.1 * across, 0.9 + 3.9 * down) as (canvas, png):
        panels = canvas.subplots(down, across, squeeze=False).ravel()
        for axes, (one, other) in zip(panels, pairs, strict=False):
            _pair(axes, {name: (at[one], at[other]) for name, at in points.items()}, looks)
            axes.set_xlabel(f"{scores.metric}, rows of {label(one)}")
            axes.set_ylabel(f"{scores.metric}, rows of {label(other)}")
        for axes in panels[len(pairs) :]:
            axes.set_visible(False)
        canvas.suptitle("Owners against each other: down and left is better, the line is the Pareto front", fontsize=11)
        handles, names = panels[0].get_legend_handles_labels()
        canvas.legend(handles, names, loc="outside right center", frameon=False, fontsize=9)
    return png.getvalue()


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Parents are filled grey, the ensemble a star, the bound hollow; every other model has a colour and a marker."""
    composed = [name for name in names if not name.startswith("alone: ") and name not in (ENSEMBLE, POOLED)]
    looks: dict[str, dict[str, Any]] = {}
    for place, name in enumerate(composed):
        colour = OKABE_ITO[place % len(OKABE_ITO)]
        looks[name] = {"marker": MARKERS[place % len(MARKERS)], "color": colour, "markersize": 8}
    for place, name in enumerate(name for name in names if name.startswith("alone: ")):
        looks[name] = {"marker": "<>^v"[place % 4], "color": PUBLIC_GREY, "markersize": 9, "mec": "black"}
    looks[ENSEMBLE] = {"marker": "*", "color": "black", "markersize": 13}
    looks[POOLED] = {"marker": "o", "color": "black", "mfc": "none", "markersize": 10}
    return {name: looks[name] for name in names}


def _pair(axes: Any, points: Mapping[str, tuple[float, float]], looks: Mapping[str, Mapping[str, Any]]) -> None:
    best = front({name: at for name, at in points.items() if name != POOLED})
    line = sorted({points[name] for name in best})
    axes.step([x for x, _ in line], [y for _, y in line], where="post", color="#444444", linestyle="--", linewidth=1)
    for name, at in points.items():
        shown = f"{label(name)} (bound, needs pooled data)" if name == POOLED else label(name)
        axes.plot(*at, linestyle="", alpha=0.85, label=shown, **looks[name])
    axes.margins(0.1)
    axes.grid(alpha=0.3)


def flips_map(scores: Scores) -> bytes:
    """Heat map: on each party's own rows, how much another party's model knows that its own does not."""
    known = flips_at_home(scores)
    others = [p for p in scores.parties if any(p in of for of in known.values())]
    grid: Grid = [[known[p].get(q) for q in others] for p in known]
    texts = [["" if v is None else f"{100 * v:.1f} %" for v in row] for row in grid]
    with figure(max(7.0, 3.6 + 1.1 * len(others)), 2.2 + 0.42 * len(known)) as (canvas, png):
        axes = canvas.add_subplot(ylabel="rows of, and wrong model of", xlabel="right model of")
        axes.set_title("Right where the party's own model is wrong, share of all its rows")
        names = {"rows": labels(list(known)), "columns": labels(others)}
        heat_map(axes, grid, texts, **names, bar="share of rows", limit=limit_of(grid), high_is_better=True)
        _one_sided(axes, limit_of(grid))
    return png.getvalue()


def classes_map(scores: Scores) -> bytes:
    """Heat map: accuracy by class, every model against the parties' own models; numbers are accuracies."""
    table = class_table(scores)
    before = table["alone"]
    models = [name for name in table if name != "alone"]
    classes = [name for name in before if all(name in table[model] for model in models)]
    grid: Grid = [[table[model][c] - before[c] for c in classes] for model in ("alone", *models)]
    texts = [[f"{100 * table[m][c]:.0f}" for c in classes] for m in ("alone", *models)]
    with figure(max(7.0, 3.8 + 0.62 * len(classes)), 2.2 + 0.4 * len(grid)) as (canvas, png):
        axes = canvas.add_subplot(xlabel="class", ylabel="model")
        axes.set_title("Accuracy by class in per cent, and its change against the owners' own models")
        names = {"rows": ["each alone", *labels(models)], "columns": labels(classes)}
        bar = "change of accuracy"
        heat_map(axes, grid, texts, **names, bar=bar, limit=limit_of(grid), high_is_better=True)
    return png.getvalue()


def candidates_map(
    fits: Mapping[tuple[str, str], float], a: str, b: str, *, chosen: Sequence[tuple[str, str]] = ()
) -> bytes:
    """Heat map of candidate pairs of stitch points by their fit, mean R2 of both directions; chosen ones are framed.

    Args:
        fits: by point of A and point of B, in the order of depth.
        a: party of network A.
        b: party of network B.
        chosen: pairs to frame.
    """
    rows, columns = (list(dict.fromkeys(pair[side] for pair in fits)) for side in (0, 1))
    grid: Grid = [[fits.get((i, j)) for j in columns] for i in rows]
    crowded = len(rows) * len(columns) > MOST_NUMBERED
    texts = [] if crowded else [["" if v is None else f"{v:.2f}" for v in row] for row in grid]
    with figure(max(6.5, 4.2 + 0.5 * len(columns)), 2.8 + 0.32 * len(rows)) as (canvas, png):
        axes = canvas.add_subplot(ylabel=f"point of {label(a)}", xlabel=f"point of {label(b)}")
        axes.set_title("Candidate pairs: R² of a linear map, mean of both directions")
        names = {"rows": labels(rows), "columns": labels(columns)}
        heat_map(axes, grid, texts, **names, bar="R²", limit=1.0, high_is_better=True)
        for i, j in chosen:
            if (i, j) in fits:
                axes.add_patch(_frame(columns.index(j), rows.index(i)))
        _one_sided(axes, 1.0)
    return png.getvalue()


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, fill=False, edgecolor="black", linewidth=2)


def _one_sided(axes: Any, limit: float) -> None:
    """Show the better half of the colour bar only, where no value is below zero."""
    image = axes.images[0]
    if image.get_array().min() >= 0 and image.colorbar is not None:
        image.colorbar.ax.set_ylim(0, limit)
