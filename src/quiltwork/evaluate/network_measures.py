"""Further measures of a network's outputs on one party's rows, all of them means over rows; see ``pooling``.

Hits by class are two means over all rows, see ``network_means``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from quiltwork.contribution.networks import TaskReference
from quiltwork.evaluate.network_columns import Array
from quiltwork.evaluate.network_insight import row_losses
from quiltwork.evaluate.network_means import class_keys
from quiltwork.evaluate.pooling import derived
from quiltwork.evaluate.reliability import reliability

MOST_CLASSES = 50
"""More classes than a table by class can show are not told one by one."""

_LONGEST_NAME = 150


def measures(outputs: Array, truth: NDArray[np.generic], task: TaskReference) -> dict[str, float]:
    """All measures beside the metric.

    Args:
        outputs: float64 ``[n, k]``: logits, or numbers.
        truth: codes ``[n]``, or numbers ``[n, q]``.
        task: classes, if there are any.
    """
    return _of_numbers(outputs, truth) if task.classes is None else _of_classes(outputs, truth, task.classes)


def _of_classes(outputs: Array, codes: NDArray[np.generic], classes: tuple[str, ...]) -> dict[str, float]:
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    p, answers = shifted / shifted.sum(axis=1, keepdims=True), outputs.argmax(axis=1)
    truth = np.asarray(codes, dtype=np.int64)
    found = {
        "accuracy": float((answers == truth).mean()),
        "log_loss": float(row_losses(outputs, truth, "log").mean()),
        "brier": float(row_losses(outputs, truth, "brier").mean()),
    }
    for code, name in enumerate(classes if len(classes) <= MOST_CLASSES else ()):
        shown, mine = name if len(name) <= _LONGEST_NAME else str(code), truth == code
        share, right = class_keys(shown)
        found |= {share: float(mine.mean()), right: float((mine & (answers == truth)).mean())}
    return found | reliability(p, truth)


def _of_numbers(outputs: Array, truth: NDArray[np.generic]) -> dict[str, float]:
    y = np.asarray(truth, dtype=np.float64)
    columns = {
        "mse": ((y - outputs) ** 2).mean(axis=0),
        "mean_absolute": np.abs(y - outputs).mean(axis=0),
        "mean_square": (y**2).mean(axis=0),
        "mean": y.mean(axis=0),
    }
    q = y.shape[1]
    means = {name if q == 1 else f"{name}_{j}": float(of[j]) for name, of in columns.items() for j in range(q)}
    return means | derived(means)
