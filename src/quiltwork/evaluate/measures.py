"""Measures of one mixture on one party's rows, all of them means over rows; see ``pooling`` for what follows from them.

Several outputs are told apart by a suffix, ``mse_0``, ``mse_1``.
"""

from __future__ import annotations

import numpy as np

from quiltwork.evaluate import calibration
from quiltwork.evaluate.pooling import derived
from quiltwork.evaluate.reliability import reliability
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts, Response
from quiltwork.models.mixture.mixture import Mixture


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
    return {"accuracy": accuracy, "brier": brier} | reliability(p, codes)


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
