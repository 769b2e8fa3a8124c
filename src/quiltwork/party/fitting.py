"""A local fit: rows of one table in, a mixture of experts and the statistics of its optimum out.

Nothing here writes or releases. The arithmetic runs on one thread: sums over rows then have one order, and the same
rows give the same bytes on one core and on many. Several fits run side by side instead, see ``local_fits``.

Classes that were declared and that no row here has are given to every expert of a classification with the mean of the
other classes' coefficients and an intercept lower by log(2 n): a probability of at most 1 / 2n, from n rows without
one. Parties thereby agree on their classes before any of them has met all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from quiltwork.errors import InvalidOption
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.models.mixture.classifier import MixtureOfExpertsClassifier
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts, FamilyName
from quiltwork.models.mixture.experts.multinomial import MultinomialExperts
from quiltwork.models.mixture.local import Precision
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.precision import precision
from quiltwork.models.mixture.regressor import MixtureOfExpertsRegressor
from quiltwork.party.table_rows import Rows


@dataclass(frozen=True, eq=False)
class Fit:
    """A local fit and what was computed beside it.

    Attributes:
        mixture: the model, in raw units.
        rows: how many rows of positive weight it was fitted to.
        converged: whether it ended by its own rule.
        iterations: of the fit that was kept.
        log_likelihood: of all rows together, in nats; None if it may not be told.
        covariates: a summary of the rows' covariates, if asked for.
        precision: statistics of the optimum, if asked for.
    """

    mixture: Mixture[Experts]
    rows: int
    converged: bool
    iterations: int
    log_likelihood: float | None = None
    covariates: CovariateSummary | None = None
    precision: Precision | None = None


@dataclass(frozen=True)
class FitPlan:
    """How a local fit is made.

    Attributes:
        n_experts: K, or ``"bic"`` to choose it by the Bayesian information criterion.
        covariates: components of the summary of covariates; None for no summary.
        minimum_rows: fewest rows of a component.
        precision: compute the statistics of the optimum too.
        seed: of starts and of the summary's components.
        options: further options of the estimator, by name.
    """

    n_experts: int | str
    covariates: int | None
    minimum_rows: int
    precision: bool
    seed: int
    options: Mapping[str, Any]


def fit_rows(rows: Rows, family: FamilyName, plan: FitPlan) -> Fit:
    """Fit a mixture to rows.

    Args:
        rows: usable ones, see ``Rows.require_usable``.
        family: of the experts.
        plan: how.

    Raises:
        InvalidOption: an option of the plan lies outside its domain, or does not fit the rows (more experts than rows).
    """
    counted = np.ones(len(rows), dtype=bool) if rows.weights is None else rows.weights > 0
    if not counted.all():
        assert rows.weights is not None
        rows = Rows(rows.x[counted], rows.y[counted], rows.weights[counted], rows.classes, rows.dropped)
    with threadpool_limits(limits=1):
        estimator = _fitted(rows, family, plan)
        mixture = widened(estimator, rows) if family == "multinomial" else estimator.mixture_
        total = float(np.sum(_weighted(mixture.log_density(rows.x, rows.y), rows)))
        return Fit(
            mixture=mixture,
            rows=len(rows),
            converged=bool(estimator.converged_),
            iterations=int(estimator.n_iter_),
            log_likelihood=total,
            covariates=_summary(rows, plan),
            precision=Precision(*precision(mixture, rows.x, rows.y, rows.weights)) if plan.precision else None,
        )


def _fitted(rows: Rows, family: FamilyName, plan: FitPlan) -> Any:
    kind: Any = MixtureOfExpertsClassifier if family == "multinomial" else MixtureOfExpertsRegressor
    stated: dict[str, Any] = {"n_experts": plan.n_experts, "random_state": plan.seed}
    if family != "multinomial":
        stated["experts"] = family
    known = sorted(set(kind._get_param_names()) - set(stated))
    if unknown := sorted(set(plan.options) - set(known)):
        raise InvalidOption(
            f"option '{unknown[0]}' of the fit", why="there is no such option", mend=f"There are {', '.join(known)}."
        )
    y = rows.y[:, 0] if rows.y.ndim == 2 and rows.y.shape[1] == 1 else rows.y
    return kind(**stated, **plan.options).fit(rows.x, y, sample_weight=rows.weights)


def widened(estimator: Any, rows: Rows) -> Mixture[Experts]:
    """The mixture of a fitted classifier over all declared classes, those that no row has included."""
    assert rows.classes is not None
    found, mixture = estimator.mixture_.experts.coefficients, estimator.mixture_
    codes = np.asarray(estimator.classes_, dtype=np.intp)
    if len(codes) == len(rows.classes):
        return mixture  # type: ignore[no-any-return]
    wide = np.repeat(found.mean(axis=1, keepdims=True), len(rows.classes), axis=1)
    wide[..., 0] -= math.log(2 * len(rows))
    wide[:, codes] = found
    return Mixture(mixture.gate, MultinomialExperts(wide))


def _weighted(values: Array, rows: Rows) -> Array:
    return values if rows.weights is None else values * rows.weights


def _summary(rows: Rows, plan: FitPlan) -> CovariateSummary | None:
    if plan.covariates is None:
        return None
    return CovariateSummary.from_rows(
        rows.x, components=plan.covariates, seed=plan.seed, minimum_rows=plan.minimum_rows
    )
