"""An ensemble of regressors fitted by different owners, with scikit-learn's conventions: `classifier` for numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_is_fitted

from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.models.ensembles.members import Array, Members, Weights
from quiltwork.models.network.combining import NumberRule, Task
from quiltwork.models.network.stacking import StackingSums


class EnsembleRegressor(RegressorMixin, Members):
    """Fitted regressors under one rule.

    Args:
        estimators: fitted regressors by name, such as their owners'.
        rule: ``mean`` or ``median``.
        weights: ``"uniform"``, ``"stacked"`` (with ``sums``), ``"evidence"`` (with ``summaries``), or numbers by name.
        sums: of each owner's held-out rows, from `stacking_sums`.
        summaries: one density of the features for each member.
        floor: of evidence, see `models.network.evidence_weights`.

    Attributes:
        weights_: float64 ``[M]``; None where they depend on the row.
    """

    _task: Task = "numbers"

    def __init__(
        self,
        estimators: Mapping[str, Any],
        rule: NumberRule = "mean",
        weights: Weights = "uniform",
        *,
        sums: Sequence[StackingSums] = (),
        summaries: Mapping[str, CovariateSummary] | None = None,
        floor: float | None = None,
    ) -> None:
        self.estimators = estimators
        self.rule = rule
        self.weights = weights
        self.sums = sums
        self.summaries = summaries
        self.floor = floor

    def fit(self, X: object = None, y: object = None) -> Self:  # noqa: ARG002, N803 - scikit-learn's way
        """Check the members and fix the weights. No rows are needed, and none are looked at.

        Raises:
            InvalidOption: a member is not fitted, or an option does not fit.
        """
        return self._settle()

    def predict(self, X: ArrayLike) -> Array:  # noqa: N803
        """Numbers, float64 ``[n]``, or ``[n, q]`` where members predict several."""
        check_is_fitted(self, "n_features_in_")
        outputs = self._outputs(X)
        found = self._combined(outputs if outputs.ndim == 3 else outputs[:, :, None], X)
        return found if outputs.ndim == 3 else np.asarray(found[:, 0], dtype=np.float64)

    def stacking_sums(self, X: ArrayLike, y: ArrayLike) -> StackingSums:  # noqa: N803
        """What an owner releases of its held-out rows: sums from which the weights of all owners follow."""
        outputs = self._outputs(X)
        rows = outputs.shape[1]
        targets = np.asarray(y, dtype=np.float64).reshape(rows, -1)
        return StackingSums.from_outputs(outputs.reshape(len(outputs), rows, -1), targets)

    def _outputs(self, x: ArrayLike) -> Array:
        return np.stack([np.asarray(one.predict(x), dtype=np.float64) for one in self.estimators.values()])
