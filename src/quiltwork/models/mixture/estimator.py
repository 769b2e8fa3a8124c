"""What both estimators share: checking a table as scikit-learn asks, fitting it, and asking the fitted `Mixture`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.checks import generator, require_finite, row_weights, whole
from quiltwork.models.mixture.design import Array, blocks
from quiltwork.models.mixture.explain import Explanation, explain
from quiltwork.models.mixture.fit import Fit, fit
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.selection import Candidate, bic, by_bic
from quiltwork.models.mixture.standard import weighted_moments

FLOATS = [np.float64, np.float32]
"""Tables of these types are read in place."""

_UNFINISHED = "EM has not converged in max_iter={} iterations; raise it, or fit fewer experts."


class MixtureEstimator(BaseEstimator):
    """The shared half of `MixtureOfExpertsRegressor` and `MixtureOfExpertsClassifier`."""

    mixture_: Mixture[Any]
    converged_: bool
    n_iter_: int
    n_features_in_: int
    log_likelihood_: float
    log_likelihood_path_: tuple[float, ...]
    selection_: tuple[Candidate, ...]

    def gate(self, X: ArrayLike) -> Array:  # noqa: N803 - scikit-learn's name
        """How much each expert counts at each row: float64 ``[n, K]``."""
        table = self._rows(X)
        values = np.empty((len(table), self.mixture_.n_experts))
        for rows in blocks(len(table)):
            values[rows] = np.exp(self.mixture_.log_gate(_doubles(table[rows])))
        return values

    def explain(self, X: ArrayLike | None = None, *, top: int = 5) -> Explanation:  # noqa: N803
        """Which expert, where.

        Args:
            X: rows over which shares and places are measured; None tells coefficients alone.
            top: coefficients and columns to tell of each expert.
        """
        check_is_fitted(self, "mixture_")
        table = None if X is None else self._rows(X)
        d = self.n_features_in_
        if table is not None:
            centre, scale = weighted_moments(table, np.ones(len(table)))
        else:
            centre, scale = getattr(self, "centre_", np.zeros(d)), getattr(self, "scale_", np.ones(d))
        names = [str(name) for name in getattr(self, "feature_names_in_", [f"x{j}" for j in range(d)])]
        outputs = self._output_names()
        return explain(self.mixture_, table, centre=centre, scale=scale, features=names, outputs=outputs, top=top)

    def _rows(self, x: ArrayLike) -> NDArray[Any]:
        """Checked rows for a fitted estimator."""
        check_is_fitted(self, "mixture_")
        table = validate_data(self, x, dtype=FLOATS, ensure_all_finite=False, reset=False)
        require_finite(table, getattr(self, "feature_names_in_", None))
        return np.asarray(table)

    def _fit_table(self, x: NDArray[Any], y: NDArray[Any], sample_weight: ArrayLike | None, n_classes: int = 0) -> Self:
        """Fit checked arrays and keep what was learnt."""
        settings, weights = self._settings(), row_weights(sample_weight, x)
        seed = int(generator(self.random_state).integers(1 << 62))
        rows = float(weights.sum())

        def one(k: int) -> Fit:
            rng = np.random.default_rng(seed)
            return fit(x, y, weights, k, settings, rng, n_classes=n_classes, watch=self._watch(k))

        if self.n_experts == "bic":
            found, self.selection_ = by_bic(one, self._most(weights), rows)
        else:
            found = one(whole("n_experts", self.n_experts))
        if not found.converged:
            warnings.warn(_UNFINISHED.format(self.max_iter), ConvergenceWarning, stacklevel=3)
        self.centre_, self.scale_ = weighted_moments(x, weights)
        self.mixture_, self.converged_, self.n_iter_ = found.mixture, found.converged, len(found.path) - 1
        self.log_likelihood_, self.log_likelihood_path_ = found.log_likelihood, found.path
        return self

    def _most(self, weights: Array) -> int:
        return min(whole("max_experts", self.max_experts), int(np.count_nonzero(weights)))

    def _watch(self, k: int) -> Any:
        if not self.verbose:
            return None
        return lambda iteration, value: print(f"{k} experts, iteration {iteration}: {value:.6f}")

    def _bic(self, log_density: Array) -> float:
        return bic(float(log_density.sum()), self.mixture_, len(log_density))

    def _adopt(self, mixture: Mixture[Any], feature_names: Sequence[str] | None) -> Self:
        """Become fitted by parameters."""
        names = None if feature_names is None else np.asarray(feature_names, dtype=object)
        if names is not None and len(names) != mixture.n_features:
            raise InvalidOption(
                "feature_names",
                why=f"there are {len(names)}, and the mixture has {mixture.n_features} columns",
                mend="Name every column once.",
            )
        if names is not None:
            self.feature_names_in_ = names
        self.mixture_, self.n_features_in_ = mixture, mixture.n_features
        self.converged_, self.n_iter_ = True, 0
        return self


def _doubles(x: NDArray[Any]) -> Array:
    return np.asarray(x, dtype=np.float64)
