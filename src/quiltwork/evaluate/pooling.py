"""Measures of several parties' rows together, from the parts that each of them scored.

What a cell stores beside its value are means over rows, so the measure of several parties' rows is the weighted mean of
theirs, whoever computed it. Ratios are derived from such means:

    RPE = sum (y - yhat)^2 / sum y^2 = mse / mean_square        relative predictive error
    R^2 = 1 - mse / (mean_square - mean^2)                      averaged over outputs
    calibration error = sum over bins |confidence - hits|       of the likeliest class

This room needs nothing but NumPy: it reads score files where no model can be opened.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from quiltwork.evaluate.scores import Cell, Scores

LEVELS = (50, 80, 90, 95)
"""Central predictive intervals that are checked, in per cent."""

BINS = 10
"""Bins of the histogram of u, and of the reliability of classes."""

# what ``derived`` adds, and ``pooled`` therefore leaves out of its means
DERIVED = ("rpe", "r2", "mae", "calibration_error")
# partitions of different rows have no mean agreement
_NOT_POOLED = (*DERIVED, "ari")


def _outputs(means: Mapping[str, float], name: str) -> NDArray[np.float64]:
    """The values of ``name`` for all outputs; empty where there are none."""
    if name in means:
        return np.array([means[name]])
    found = [means[f"{name}_{j}"] for j in range(len(means)) if f"{name}_{j}" in means]
    return np.array(found)


def derived(means: Mapping[str, float]) -> dict[str, float]:
    """The ratios that follow from means over rows; one that has no value (a constant response) is left out.

    >>> derived({"mse": 1.0, "mean_absolute": 0.8, "mean_square": 5.0, "mean": 1.0})
    {'mae': 0.8, 'rpe': 0.2, 'r2': 0.75}
    """
    found: dict[str, float] = {}
    mse, square = _outputs(means, "mse"), _outputs(means, "mean_square")
    if len(mse):
        variance = square - _outputs(means, "mean") ** 2
        found["mae"] = float(_outputs(means, "mean_absolute").mean())
        if square.sum() > 0:
            found["rpe"] = float(mse.sum() / square.sum())
        # below this a variance is rounding of two equal numbers
        if (variance > 1e-12 * square).all():
            found["r2"] = float((1 - mse / variance).mean())
    if "bin_0_share" in means:
        gaps = (means[f"bin_{j}_confidence"] - means[f"bin_{j}_hits"] for j in range(BINS))
        found["calibration_error"] = math.fsum(map(abs, gaps))
    return found


def pooled(cells: Iterable[Cell]) -> dict[str, float]:
    """The measures of several parties' rows together, from the cells of one model.

    The means are weighted by rows, ratios are derived anew; what some cell lacks is left out, and so is what cannot be
    put together.
    """
    known = [cell for cell in cells if cell.amount]
    names = set.intersection(*(set(cell.extra) for cell in known)) if known else set()
    total = sum(cell.amount for cell in known)
    means = {
        name: math.fsum(cell.amount * cell.extra[name] for cell in known) / total
        for name in sorted(names)
        if name not in _NOT_POOLED
    }
    return means | derived(means)


def pooled_methods(scores: Scores) -> dict[str, dict[str, float]]:
    """For each method its measures on all parties' own rows together, and those of the model itself.

    What every party has alone, each on its own rows, is added as ``alone``. Methods that lack a party's cell are left
    out: other rows give other numbers.
    """
    own = [party for party in scores.parties if party in scores.domains]
    rows = {name: (row.domains, row.extra) for name, row in scores.methods.items()}
    alone = {party: row.domains[party] for party, row in scores.alone.items() if party in row.domains}
    found = {
        name: pooled(cells[party] for party in own) | _mean_ari([cells[party] for party in own]) | extra
        for name, (cells, extra) in {**rows, "alone": (alone, {})}.items()
        if own and set(own) <= cells.keys()
    }
    return {name: means for name, means in found.items() if means}


def _mean_ari(cells: Sequence[Cell]) -> dict[str, float]:
    """The mean over parties of the gate's agreement with known labels, where all have it."""
    known = [cell.extra["ari"] for cell in cells if "ari" in cell.extra]
    return {"mean_ari": math.fsum(known) / len(known)} if known and len(known) == len(cells) else {}
