"""What isolation costs: both modes trained on the same rows, and compared on rows that neither saw.

    score       1 - mean_j loss_j          loss: 1 for a wrong class; (f - y)^2 / var(y) for numbers
    difference  d_j = loss_j(isolated) - loss_j(joint),     error = sd(d) / sqrt(m)

Joint mode counts as better where the mean of d is beyond two errors; otherwise isolated mode is, since it promises
more. Comparing opens every fragment twice, and where privacy is accounted for, choosing by it has its own price.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone

from quiltwork.errors import InvalidOption
from quiltwork.models.split.seeds import seed_of
from quiltwork.session.split.estimators import SplitClassifier, SplitRegressor
from quiltwork.session.split.tables import tables


@dataclass(frozen=True)
class ModesCompared:
    """Scores of the two modes.

    Attributes:
        isolated: share of right classes, or coefficient of determination, on held-out rows.
        joint: likewise.
        error: standard error of their difference, row by row.
        rows: held-out rows.
    """

    isolated: float
    joint: float
    error: float
    rows: int

    @property
    def better(self) -> Literal["isolated", "joint"]:
        """The mode to take: joint only where it is better by more than two errors."""
        return "joint" if self.joint - self.isolated > 2 * self.error else "isolated"

    def __str__(self) -> str:
        gain = f"{self.joint - self.isolated:+.3f} +- {self.error:.3f} on {self.rows} held-out rows"
        if self.better == "joint":
            return f"joint gains {gain}; it gives up non-interference and exact leaving, so ask for it by name"
        return f"isolated suffices: joint against isolated is {gain}"


def compare_modes(
    estimator: SplitClassifier | SplitRegressor,
    X: Mapping[str, Any],  # noqa: N803 - scikit-learn's name
    y: ArrayLike,
    *,
    held_out: float = 0.25,
) -> ModesCompared:
    """Fit copies of an estimator in both modes, and score them on held-out rows.

    Raises:
        InvalidOption: nothing would be held out, or nothing left; or as `fit` raises.
    """
    given, labels = tables(X), np.asarray(y)
    rows = len(next(iter(given.values())))
    count = round(rows * held_out)
    if not 0 < count < rows:
        raise InvalidOption(f"held_out={held_out}", why=f"of {rows} rows it leaves none", mend="Choose 0.25.")
    order = np.random.default_rng(seed_of(estimator.seed, "modes compared")).permutation(rows)
    test, train = order[:count], order[count:]
    losses = {}
    for mode in ("isolated", "joint"):
        fit = clone(estimator).set_params(mode=mode)
        fit.fit({p: table[train] for p, table in given.items()}, labels[train])
        losses[mode] = _losses(fit, {p: table[test] for p, table in given.items()}, labels[test])
    gain = losses["isolated"] - losses["joint"]
    error = float(gain.std() / np.sqrt(count))
    return ModesCompared(1 - float(losses["isolated"].mean()), 1 - float(losses["joint"].mean()), error, count)


def _losses(fit: SplitClassifier | SplitRegressor, given: Mapping[str, Any], y: NDArray[Any]) -> NDArray[np.float64]:
    found = fit.predict(given)
    if isinstance(fit, SplitClassifier):
        return np.asarray(found != y, dtype=np.float64)
    return np.asarray((found - y) ** 2 / (y.var() or 1.0), dtype=np.float64)
