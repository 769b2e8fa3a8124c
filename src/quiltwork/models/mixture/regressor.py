"""A regression by mixture of experts: softmax gate, linear-Gaussian or Poisson experts, fitted by EM.

    f(y | x) = sum_k pi_k(x) N(y; b_k0 + x'b_k, s_k^2)        or Poisson(y; exp(b_k0 + x'b_k))

>>> rng = np.random.default_rng(0)
>>> x = rng.uniform(-2, 2, (400, 1))
>>> y = np.where(x[:, 0] > 0, 3 * x[:, 0], -x[:, 0]) + 0.1 * rng.standard_normal(400)
>>> model = MixtureOfExpertsRegressor(2, random_state=0).fit(x, y)
>>> model.predict([[-1.0], [1.0]]).round(1)
array([1., 3.])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_consistent_length, column_or_1d, validate_data

from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.checks import generator, require_finite
from quiltwork.models.mixture.design import Array, blocks
from quiltwork.models.mixture.estimator import FLOATS, MixtureEstimator
from quiltwork.models.mixture.fit import Settings
from quiltwork.models.mixture.likelihood import GateStep
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.quantiles import quantiles

Family = Literal["gaussian", "poisson"]


class MixtureOfExpertsRegressor(RegressorMixin, MixtureEstimator):
    """Mixture-of-experts regression.

    Args:
        n_experts: K, or "bic" for the K of least BIC among 1 to ``max_experts``.
        experts: "gaussian" for real responses, one or several outputs, or "poisson" for counts.
        max_experts: for "bic".
        n_init: random starts at most; fewer run once two agree on the best likelihood.
        start_rows: starts compete on at most so many rows.
        max_iter: EM iterations at most.
        tol: stop when an iteration gains at most so many nats per unit of weight, counting 1000 units at most.
        ridge_gate: penalty ridge/2 |slopes|^2 of the gate, on standardised columns.
        ridge_experts: the same for experts; for Gaussian ones in units of their noise variance.
        min_variance: least noise variance of an expert, as a share of the response's variance.
        gate_step: "newton", or "bohning" for the fixed bound on the gate's curvature.
        standardise: work on standardised columns; without it, ridges are on the columns as they are.
        random_state: of the starts.
        verbose: print the log-likelihood of every iteration.

    Attributes:
        mixture_: the fitted `Mixture`, in raw units.
        converged_: whether EM ended by its tolerance.
        n_iter_: its iterations after the starts.
        log_likelihood_: of the weighted rows, in nats, without penalties.
        log_likelihood_path_: with penalties, per iteration; it does not fall.
        selection_: the `Candidate` table, with n_experts="bic" alone.
        n_features_in_, feature_names_in_: as in scikit-learn.
    """

    def __init__(
        self,
        n_experts: int | Literal["bic"] = 2,
        *,
        experts: Family = "gaussian",
        max_experts: int = 8,
        n_init: int = 8,
        start_rows: int = 100_000,
        max_iter: int = 500,
        tol: float = 1e-6,
        ridge_gate: float = 1e-3,
        ridge_experts: float = 0.0,
        min_variance: float = 1e-6,
        gate_step: GateStep = "newton",
        standardise: bool = True,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_experts = n_experts
        self.experts = experts
        self.max_experts = max_experts
        self.n_init = n_init
        self.start_rows = start_rows
        self.max_iter = max_iter
        self.tol = tol
        self.ridge_gate = ridge_gate
        self.ridge_experts = ridge_experts
        self.min_variance = min_variance
        self.gate_step = gate_step
        self.standardise = standardise
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def from_mixture(cls, mixture: Mixture[Any], *, feature_names: Sequence[str] | None = None) -> Self:
        """A fitted regressor from parameters.

        Args:
            mixture: Gaussian or Poisson experts under any gate.
            feature_names: names of its columns.

        Raises:
            InvalidOption: the experts are of another family, or the names do not fit.
        """
        if mixture.experts.family not in ("gaussian", "poisson"):
            raise InvalidOption(
                f"a mixture of {mixture.experts.family} experts",
                why="a regressor has Gaussian or Poisson ones",
                mend="Use MixtureOfExpertsClassifier.from_mixture.",
            )
        model = cls(mixture.n_experts, experts=mixture.experts.family)._adopt(mixture, feature_names)
        model._flat = mixture.experts.coefficients.shape[1] == 1
        return model

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:  # noqa: N803
        """Fit by EM.

        Args:
            X: ``[n, d]`` finite numbers; float arrays and memory maps are read in place, block by block.
            y: ``[n]``, or ``[n, q]`` with Gaussian experts.
            sample_weight: ``[n]``, not negative.

        Raises:
            InvalidOption: a parameter, a column, a weight or a count outside its domain.
        """
        table, response = validate_data(
            self, X, y, dtype=FLOATS, multi_output=True, y_numeric=True, ensure_all_finite=False
        )
        require_finite(table, getattr(self, "feature_names_in_", None))
        response = self._response(response)
        self._flat = response.ndim == 1
        return self._fit_table(np.asarray(table), response.reshape(len(table), -1), sample_weight)

    def predict(self, X: ArrayLike) -> Array:  # noqa: N803
        """E[y | x]: ``[n]`` or ``[n, q]``, as y was given."""
        table = self._rows(X)
        return self._shaped(self.mixture_.mean(table))

    def predict_std(self, X: ArrayLike) -> Array:  # noqa: N803
        """Standard deviation of y given x, output by output: in the shape of `predict`."""
        table = self._rows(X)
        return self._shaped(np.sqrt(self.mixture_.variance(table)))

    def predict_quantiles(self, X: ArrayLike, levels: ArrayLike = (0.05, 0.5, 0.95)) -> Array:  # noqa: N803
        """The smallest y with F(y | x) at least the level.

        Args:
            X: ``[n, d]``.
            levels: L numbers strictly between 0 and 1.

        Returns:
            float64 ``[n, L]``, or ``[n, q, L]`` for several outputs.

        Raises:
            InvalidOption: a level is not between 0 and 1.
        """
        asked = np.atleast_1d(np.asarray(levels, dtype=np.float64))
        if asked.ndim != 1 or not ((asked > 0) & (asked < 1)).all():
            raise InvalidOption(
                f"levels={asked.tolist()}", why="they are probabilities", mend="Choose some between 0 and 1."
            )
        table = self._rows(X)
        values = quantiles(self.mixture_, table, asked)
        return values[:, 0] if self._flat else values

    def log_density(self, X: ArrayLike, y: ArrayLike) -> Array:  # noqa: N803
        """log f(y_i | x_i) in nats: float64 ``[n]``."""
        table, response = self._pairs(X, y)
        return self.mixture_.log_density(table, response)

    def responsibilities(self, X: ArrayLike, y: ArrayLike) -> Array:  # noqa: N803
        """Posterior of the expert given x and y: float64 ``[n, K]``."""
        table, response = self._pairs(X, y)
        values = np.empty((len(table), self.mixture_.n_experts))
        for rows in blocks(len(table)):
            values[rows] = self.mixture_.responsibilities(table[rows], response[rows])
        return values

    def sample(self, X: ArrayLike, random_state: Any = None) -> Array:  # noqa: N803
        """One response drawn for every row, in the shape of `predict`."""
        table, rng = self._rows(X), generator(random_state)
        return self._shaped(self.mixture_.sample(table, rng)[0])

    def bic(self, X: ArrayLike, y: ArrayLike) -> float:  # noqa: N803
        """The Bayesian information criterion on these rows; smaller is better."""
        return self._bic(self.log_density(X, y))

    def _settings(self) -> Settings:
        if self.experts not in ("gaussian", "poisson"):
            raise InvalidOption(
                f"experts={self.experts!r}", why="there is no such family", mend="Choose 'gaussian' or 'poisson'."
            )
        names = ("n_init", "start_rows", "max_iter", "tol", "ridge_gate", "ridge_experts", "min_variance", "gate_step")
        chosen = {name: getattr(self, name) for name in names}
        return Settings(family=self.experts, standardise=self.standardise, **chosen)

    def _response(self, y: Any) -> NDArray[np.float64]:
        response = np.asarray(y, dtype=np.float64)
        if self.experts != "poisson":
            return response
        flat = np.asarray(column_or_1d(response, warn=True))
        bad = (flat < 0) | (flat != np.floor(flat))
        if bad.any():
            row = int(np.argmax(bad))
            raise InvalidOption(
                f"y[{row}]={flat[row]:g}",
                why="Poisson experts count, so responses are whole numbers of at least 0",
                mend="Use experts='gaussian' for other responses.",
            )
        return flat

    def _pairs(self, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[Any], Array]:
        table, response = self._rows(x), np.asarray(y, dtype=np.float64)
        check_consistent_length(table, response)
        q = self.mixture_.experts.coefficients.shape[1]
        wide = response.reshape(len(table), -1)
        if wide.shape[1] != q:
            raise InvalidOption(
                "y", why=f"it has {wide.shape[1]} columns, and the model {q} outputs", mend="Give one column an output."
            )
        return table, wide

    def _shaped(self, values: NDArray[Any]) -> Array:
        return np.asarray(values[:, 0] if self._flat else values, dtype=np.float64)

    def _output_names(self) -> list[str]:
        q = self.mixture_.experts.coefficients.shape[1]
        return ["y"] if q == 1 else [f"y{j}" for j in range(q)]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = self.experts == "gaussian"
        tags.target_tags.positive_only = self.experts == "poisson"
        return tags
