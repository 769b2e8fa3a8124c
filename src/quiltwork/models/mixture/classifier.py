"""A classification by mixture of experts: softmax gate, multinomial-logistic experts, fitted by EM.

    P(y = c | x) = sum_k pi_k(x) exp(b_kc0 + x'b_kc) / sum_c' exp(b_kc'0 + x'b_kc')

>>> rng = np.random.default_rng(0)
>>> x = rng.uniform(-1, 1, (500, 2))
>>> y = np.where(x[:, 0] * x[:, 1] > 0, "same", "other")
>>> MixtureOfExpertsClassifier(2, random_state=0).fit(x, y).predict([[0.5, 0.6], [-0.5, 0.6]])
array(['same', 'other'], dtype='<U5')
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, column_or_1d, validate_data

from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.checks import generator, require_finite
from quiltwork.models.mixture.design import Array, blocks
from quiltwork.models.mixture.estimator import FLOATS, MixtureEstimator
from quiltwork.models.mixture.fit import Settings
from quiltwork.models.mixture.likelihood import GateStep
from quiltwork.models.mixture.mixture import Mixture


class MixtureOfExpertsClassifier(ClassifierMixin, MixtureEstimator):
    """Mixture-of-experts classification.

    Args:
        n_experts: K, or "bic" for the K of least BIC among 1 to ``max_experts``.
        max_experts: for "bic".
        n_init: random starts at most; fewer run once two agree on the best likelihood.
        start_rows: starts compete on at most so many rows.
        max_iter: EM iterations at most.
        tol: stop when an iteration gains at most so many nats per unit of weight, counting 1000 units at most.
        ridge_gate: penalty ridge/2 |slopes|^2 of the gate, on standardised columns.
        ridge_experts: the same for experts; above zero, separable classes have a finite optimum.
        gate_step: "newton", or "bohning" for the fixed bound on the gate's curvature.
        standardise: work on standardised columns; without it, ridges are on the columns as they are.
        random_state: of the starts.
        verbose: print the log-likelihood of every iteration.

    Attributes:
        classes_: sorted labels; the columns of `predict_proba`.
        mixture_, converged_, n_iter_, log_likelihood_, log_likelihood_path_, selection_, n_features_in_,
        feature_names_in_: as in `MixtureOfExpertsRegressor`.
    """

    def __init__(
        self,
        n_experts: int | Literal["bic"] = 2,
        *,
        max_experts: int = 8,
        n_init: int = 8,
        start_rows: int = 100_000,
        max_iter: int = 500,
        tol: float = 1e-6,
        ridge_gate: float = 1e-3,
        ridge_experts: float = 1e-3,
        gate_step: GateStep = "newton",
        standardise: bool = True,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_experts = n_experts
        self.max_experts = max_experts
        self.n_init = n_init
        self.start_rows = start_rows
        self.max_iter = max_iter
        self.tol = tol
        self.ridge_gate = ridge_gate
        self.ridge_experts = ridge_experts
        self.gate_step = gate_step
        self.standardise = standardise
        self.random_state = random_state
        self.verbose = verbose

    @classmethod
    def from_mixture(
        cls,
        mixture: Mixture[Any],
        *,
        feature_names: Sequence[str] | None = None,
        classes: Sequence[Any] | None = None,
    ) -> Self:
        """A fitted classifier from parameters.

        Args:
            mixture: multinomial experts under any gate.
            feature_names: names of its columns.
            classes: labels in the order of the experts' classes; 0 to C - 1 if None.

        Raises:
            InvalidOption: the experts are of another family, or names or labels do not fit.
        """
        if mixture.experts.family != "multinomial":
            raise InvalidOption(
                f"a mixture of {mixture.experts.family} experts",
                why="a classifier has multinomial ones",
                mend="Use MixtureOfExpertsRegressor.from_mixture.",
            )
        count = mixture.experts.coefficients.shape[1]
        labels = np.arange(count) if classes is None else np.asarray(classes)
        if len(labels) != count:
            raise InvalidOption("classes", why=f"{count} are needed", mend="Name every class once.")
        model = cls(mixture.n_experts)._adopt(mixture, feature_names)
        model.classes_ = labels
        return model

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:  # noqa: N803
        """Fit by EM.

        Args:
            X: ``[n, d]`` finite numbers; float arrays and memory maps are read in place, block by block.
            y: ``[n]`` labels of at least two classes.
            sample_weight: ``[n]``, not negative.

        Raises:
            InvalidOption: a parameter, a column, a weight or a count outside its domain, or one class only.
        """
        table, labels = validate_data(self, X, y, dtype=FLOATS, ensure_all_finite=False)
        require_finite(table, getattr(self, "feature_names_in_", None))
        labels = column_or_1d(labels, warn=True)
        check_classification_targets(labels)
        self.classes_, codes = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise InvalidOption(
                "y",
                why=f"it has one class only, {self.classes_[0]!r}",
                mend="Give rows of at least two classes; one class needs no model.",
            )
        count = len(self.classes_)
        return self._fit_table(np.asarray(table), codes.astype(np.int64), sample_weight, count)

    def predict_proba(self, X: ArrayLike) -> Array:  # noqa: N803
        """Class probabilities: float64 ``[n, C]``, columns as `classes_`."""
        table = self._rows(X)
        return self.mixture_.mean(table)

    def predict_log_proba(self, X: ArrayLike) -> Array:  # noqa: N803
        """Their logarithms."""
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(self.predict_proba(X)))

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """The most probable class of every row."""
        best = np.argmax(self.predict_proba(X), axis=1)
        return np.asarray(self.classes_[best])

    def log_density(self, X: ArrayLike, y: ArrayLike) -> Array:  # noqa: N803
        """log P(y_i | x_i) in nats: float64 ``[n]``."""
        table, codes = self._pairs(X, y)
        return self.mixture_.log_density(table, codes)

    def responsibilities(self, X: ArrayLike, y: ArrayLike) -> Array:  # noqa: N803
        """Posterior of the expert given x and y: float64 ``[n, K]``."""
        table, codes = self._pairs(X, y)
        values = np.empty((len(table), self.mixture_.n_experts))
        for rows in blocks(len(table)):
            values[rows] = self.mixture_.responsibilities(table[rows], codes[rows])
        return values

    def sample(self, X: ArrayLike, random_state: Any = None) -> NDArray[Any]:  # noqa: N803
        """One label drawn for every row."""
        table, rng = self._rows(X), generator(random_state)
        return np.asarray(self.classes_[self.mixture_.sample(table, rng)[0]])

    def bic(self, X: ArrayLike, y: ArrayLike) -> float:  # noqa: N803
        """The Bayesian information criterion on these rows; smaller is better."""
        return self._bic(self.log_density(X, y))

    def _settings(self) -> Settings:
        names = ("n_init", "start_rows", "max_iter", "tol", "ridge_gate", "ridge_experts", "gate_step", "standardise")
        return Settings(family="multinomial", **{name: getattr(self, name) for name in names})

    def _pairs(self, x: ArrayLike, y: ArrayLike) -> tuple[NDArray[Any], NDArray[np.int64]]:
        table, labels = self._rows(x), np.asarray(y)
        check_consistent_length(table, labels)
        order = np.argsort(self.classes_)
        place = np.minimum(np.searchsorted(self.classes_, labels, sorter=order), len(order) - 1)
        codes = order[place]
        if (self.classes_[codes] != labels).any():
            odd = labels[self.classes_[codes] != labels][0]
            raise InvalidOption(f"label {odd!r}", why="the model does not know it", mend="Leave such rows out.")
        return table, codes.astype(np.int64)

    def _output_names(self) -> list[str]:
        return [str(label) for label in self.classes_]
