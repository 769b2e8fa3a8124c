"""An ensemble of classifiers fitted by different owners, with scikit-learn's conventions.

Members may know different classes: the ensemble knows all of them, and a member gives those it never saw the least
probability ``least``. A member needs ``predict_proba`` and ``classes_`` and may be anything otherwise.

>>> from sklearn.linear_model import LogisticRegression
>>> rng = np.random.default_rng(0)
>>> x, y = rng.normal(size=(200, 2)), rng.integers(0, 2, 200)
>>> x[:, 0] += 3 * y
>>> owners = {"ash": LogisticRegression().fit(x[:100], y[:100]), "oak": LogisticRegression().fit(x[100:], y[100:])}
>>> ensemble = EnsembleClassifier(owners, weights="stacked")
>>> ensemble = ensemble.set_params(sums=[ensemble.stacking_sums(x[:50], y[:50])]).fit()
>>> ensemble.score(x, y) > 0.9, float(ensemble.weights_.sum().round(6))
(True, 1.0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from quiltwork.errors import InvalidOption
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.models.ensembles.members import Array, Members, Weights
from quiltwork.models.network.combining import Rule, Task
from quiltwork.models.network.stacking import StackingSums


class EnsembleClassifier(ClassifierMixin, Members):
    """Fitted classifiers under one rule.

    Args:
        estimators: fitted classifiers by name, such as their owners'.
        rule: ``probability``, ``geometric`` (``logit`` is the same), ``rank`` or ``median``.
        weights: ``"uniform"``, ``"stacked"`` (with ``sums``), ``"evidence"`` (with ``summaries``), or numbers by name.
        sums: of each owner's held-out rows, from `stacking_sums`.
        summaries: one density of the features for each member.
        floor: of evidence, see `models.network.evidence_weights`.
        least: least probability of a class, for members that never saw it.

    Attributes:
        classes_: all classes that any member knows, sorted.
        weights_: float64 ``[M]``; None where they depend on the row.
    """

    _task: Task = "classes"

    def __init__(
        self,
        estimators: Mapping[str, Any],
        rule: Rule = "probability",
        weights: Weights = "uniform",
        *,
        sums: Sequence[StackingSums] = (),
        summaries: Mapping[str, CovariateSummary] | None = None,
        floor: float | None = None,
        least: float = 1e-9,
    ) -> None:
        self.estimators = estimators
        self.rule = rule
        self.weights = weights
        self.sums = sums
        self.summaries = summaries
        self.floor = floor
        self.least = least

    def fit(self, X: object = None, y: object = None) -> Self:  # noqa: ARG002, N803 - scikit-learn's way
        """Check the members and fix the weights. No rows are needed, and none are looked at.

        Raises:
            InvalidOption: a member is not fitted or has no probabilities, or an option does not fit.
        """
        self._settle()
        self.classes_ = self._known()
        return self

    def predict_proba(self, X: ArrayLike) -> Array:  # noqa: N803
        """Probability of each class, float64 ``[n, k]``, in the order of ``classes_``."""
        check_is_fitted(self, "classes_")
        return np.asarray(np.exp(self._combined(np.log(self._aligned(X)), X)), dtype=np.float64)

    def predict(self, X: ArrayLike) -> NDArray[Any]:  # noqa: N803
        """The likeliest class of each row."""
        return np.asarray(self.classes_[self.predict_proba(X).argmax(axis=1)])

    def stacking_sums(self, X: ArrayLike, y: ArrayLike) -> StackingSums:  # noqa: N803
        """What an owner releases of its held-out rows: sums from which the weights of all owners follow.

        Raises:
            InvalidOption: a class that no member knows.
        """
        known, labels = self._known(), np.asarray(y)
        if strangers := set(labels.tolist()) - set(known.tolist()):
            raise InvalidOption(
                f"class {min(strangers, key=str)!r}", why="no member knows it", mend="Leave such rows out."
            )
        return StackingSums.from_outputs(self._aligned(X), labels[:, None] == known)

    def _known(self) -> NDArray[Any]:
        for name, estimator in self.estimators.items():
            if not hasattr(estimator, "predict_proba") or not hasattr(estimator, "classes_"):
                raise InvalidOption(
                    f"estimator '{name}'",
                    why="it has no predict_proba and classes_",
                    mend="Calibrate it first, with CalibratedClassifierCV for instance.",
                )
        return np.unique(np.concatenate([np.asarray(one.classes_) for one in self.estimators.values()]))

    def _aligned(self, x: ArrayLike) -> Array:
        """Probabilities of all members over all classes, float64 ``[M, n, k]``, none below ``least``."""
        known = self._known()
        tables = []
        for estimator in self.estimators.values():
            given = np.asarray(estimator.predict_proba(x), dtype=np.float64)
            table = np.zeros((len(given), len(known)))
            table[:, np.searchsorted(known, estimator.classes_)] = given
            tables.append(np.maximum(table, self.least))
        stack = np.stack(tables)
        return np.asarray(stack / stack.sum(axis=2, keepdims=True), dtype=np.float64)
