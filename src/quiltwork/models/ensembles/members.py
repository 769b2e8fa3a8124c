"""What both ensembles share: fitted members, and how much each of them counts.

    uniform      1 / M
    mapping      a number for each member, scaled to sum 1
    stacked      from sums that owners computed on their held-out rows (`models.network.stacking`); rows stay at home
    evidence     per row, the posterior over owners from their covariate summaries (`evidence.covariates`)

The rules are those of networks (`models.network.combining`), in float64.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from quiltwork.errors import InvalidOption
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.evidence.gaussian import finite_table
from quiltwork.models.network.combining import Task, combine, require_rule
from quiltwork.models.network.embedder import Flat
from quiltwork.models.network.evidence_weights import EvidenceWeigher
from quiltwork.models.network.stacking import StackingSums, stacked

Array = NDArray[np.float64]
Weights: TypeAlias = Literal["uniform", "stacked", "evidence"] | Mapping[str, float]


class Members(BaseEstimator):
    """The shared half of `EnsembleClassifier` and `EnsembleRegressor`; members are fitted before they come here."""

    estimators: Mapping[str, Any]
    rule: str
    weights: Weights
    sums: Sequence[StackingSums]
    summaries: Mapping[str, CovariateSummary] | None
    floor: float | None
    weights_: Array | None
    _task: Task

    def __sklearn_clone__(self) -> Self:
        """A clone with the same members: they stay fitted, since nobody here could fit them again."""
        return type(self)(**self.get_params(deep=False))

    def _settle(self) -> Self:
        """Check members and options, and fix the weights that do not depend on the row."""
        if not self.estimators:
            raise InvalidOption("estimators", why="there are none", mend="Give fitted estimators by name.")
        for name, estimator in self.estimators.items():
            _require_fitted(name, estimator)
        require_rule(self.rule, self._task)
        self._weigher = self._evidence() if self.weights == "evidence" else None
        self.weights_ = None if self._weigher is not None else self._fixed()
        self.n_features_in_ = getattr(next(iter(self.estimators.values())), "n_features_in_", None)
        return self

    def _evidence(self) -> EvidenceWeigher:
        held = self.summaries or {}
        if set(held) != set(self.estimators):
            raise InvalidOption(
                "weights='evidence'",
                why="there is no covariate summary for each member, and for members only",
                mend=f"Give summaries of {', '.join(self.estimators)}.",
            )
        return EvidenceWeigher.from_summaries(Flat(), {n: held[n] for n in self.estimators}, floor=self.floor)

    def _fixed(self) -> Array:
        members = len(self.estimators)
        if self.weights == "stacked":
            found = stacked(self.sums)
            if len(found) != members:
                why = f"they are of {len(found)} members, and there are {members}"
                raise InvalidOption("sums", why=why, mend="Compute them with this ensemble's stacking_sums.")
            return found
        if self.weights == "uniform":
            return np.full(members, 1 / members)
        return _scaled(self.weights, tuple(self.estimators))

    def _combined(self, outputs: Array, x: ArrayLike) -> Array:
        """Outputs ``[M, n, k]`` of the members under the rule."""
        if self._weigher is None:
            weights = torch.from_numpy(np.asarray(self.weights_))
        else:
            weights = self._weigher.float64_weights(torch.from_numpy(finite_table(x)))
        return np.asarray(combine(torch.from_numpy(outputs), weights, self.rule, self._task).numpy(), dtype=np.float64)


def _scaled(weights: object, names: tuple[str, ...]) -> Array:
    if not isinstance(weights, Mapping):
        raise InvalidOption(
            f"weights={weights!r}"[:200],
            why="there are no such weights",
            mend="Choose 'uniform', 'stacked', 'evidence', or a number for each member.",
        )
    values = np.array([weights.get(name, np.nan) for name in names], dtype=np.float64)
    if set(weights) != set(names) or not (np.isfinite(values) & (values >= 0)).all() or not values.any():
        why = "they are not one number for each member, none negative and not all zero"
        raise InvalidOption("weights", why=why, mend=f"Give weights of {', '.join(names)}.")
    return np.asarray(values / values.sum(), dtype=np.float64)


def _require_fitted(name: str, estimator: object) -> None:
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as error:
        raise InvalidOption(
            f"estimator '{name}'",
            why="it is not fitted, and rows of its owner are not at hand here",
            mend="Let its owner fit it first.",
        ) from error
