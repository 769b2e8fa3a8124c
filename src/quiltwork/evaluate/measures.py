"""Measures of one mixture on one party's rows, kept so that parts scored apart can be put together.

Everything that is stored is a mean over rows, so the measure of several parties' rows together is the weighted mean of
theirs, whoever computed it. Ratios are derived from such means:

    RPE = sum (y - yhat)^2 / sum y^2 = mse / mean_square        relative predictive error
    R^2 = 1 - mse / (mean_square - mean^2)                      averaged over outputs

Several outputs are told apart by a suffix, ``mse_0``, ``mse_1``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from quiltwork.evaluate import calibration
from quiltwork.evaluate.scores import Cell
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts, Response
from quiltwork.models.mixture.mixture import Mixture

# what ``derived`` adds, and ``pooled`` therefore leaves out of its means
DERIVED = ("rpe", "r2", "mae", "calibration_error")
# of no use beyond one party's rows: partitions of different rows have no mean agreement
_NOT_POOLED = (*DERIVED, "ari")


def measures(mixture: Mixture[Experts], x: Array, y: Response) -> dict[str, float]:
    """All measures of ``mixture`` beside its log-likelihood.

    Args:
        mixture: any family.
        x: float64 ``[n, d]``.
        y: float64 ``[n, q]``, or class codes int64 ``[n]``.
    """
    means = _of_classes(mixture, x, y) if mixture.experts.family == "multinomial" else _of_numbers(mixture, x, y)
    return means | derived(means)


def _of_classes(mixture: Mixture[Experts], x: Array, codes: Response) -> dict[str, float]:
    p = mixture.mean(x)
    missed = p.copy()
    missed[np.arange(len(x)), codes] -= 1
    accuracy = float((p.argmax(axis=1) == codes).mean())
    brier = float((missed**2).sum(axis=1).mean())
    return {"accuracy": accuracy, "brier": brier} | calibration.reliability(p, codes)


def _of_numbers(mixture: Mixture[Experts], x: Array, y: Response) -> dict[str, float]:
    residual = y - mixture.mean(x)
    columns = {
        "mse": (residual**2).mean(axis=0),
        "mean_absolute": np.abs(residual).mean(axis=0),
        "mean_square": (y**2).mean(axis=0),
        "mean": y.mean(axis=0),
    }
    q = y.shape[1]
    means = {_suffixed(name, j, q): float(values[j]) for name, values in columns.items() for j in range(q)}
    low, high = calibration.pit(mixture, x, y)
    return means | calibration.coverage(low, high) | calibration.histogram(low, high)


def _suffixed(name: str, output: int, outputs: int) -> str:
    return name if outputs == 1 else f"{name}_{output}"


def _outputs(means: Mapping[str, float], name: str) -> Array:
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
        gaps = (means[f"bin_{j}_confidence"] - means[f"bin_{j}_hits"] for j in range(calibration.BINS))
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
