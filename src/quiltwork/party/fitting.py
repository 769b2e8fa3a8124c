"""A local fit: rows of one table in, a mixture of experts and what is declared beside it out, each with its price.

Nothing here writes. The arithmetic runs on one thread: sums over rows then have one order, and the same rows give the
same bytes on one core and on many. Several fits run side by side instead, see ``local_fits``.

Classes that were declared and that no row here has are given to every expert of a classification with the mean of the
other classes' coefficients and an intercept lower by log(2 n): a probability of at most 1 / 2n, from n rows without
one. Parties thereby agree on their classes before any of them has met all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from quiltwork.errors import InvalidOption
from quiltwork.evidence.clipped import ClippedGaussian
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.evidence.moments_release import release_covariates, release_precision
from quiltwork.models.mixture.classifier import MixtureOfExpertsClassifier
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts, FamilyName
from quiltwork.models.mixture.experts.multinomial import MultinomialExperts
from quiltwork.models.mixture.local import Precision
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.precision import precision
from quiltwork.models.mixture.regressor import MixtureOfExpertsRegressor
from quiltwork.party.mixture_order import MixtureOrder
from quiltwork.party.one_thread import one_thread
from quiltwork.party.private_em import fit_privately
from quiltwork.party.table_rows import Rows
from quiltwork.privacy.events import Event, ExactEvent


@dataclass(frozen=True, eq=False)
class Fit:
    """A local fit, what was computed beside it, and what releasing all of it costs.

    Attributes:
        mixture: the model, in raw units.
        rows: how many rows of positive weight it was fitted to; after noise, a noisy count.
        converged: whether it ended by its own rule.
        iterations: of the fit that was kept.
        log_likelihood: of all rows together, in nats; None if it is not to be told.
        covariates: a summary of the rows' covariates, if asked for.
        precision: statistics of the optimum, if asked for.
        events: one or more for each of these.
    """

    mixture: Mixture[Any]
    rows: int
    converged: bool
    iterations: int
    log_likelihood: float | None
    covariates: CovariateSummary | None
    precision: Precision | None
    events: tuple[Event, ...]


def fit_rows(rows: Rows, family: FamilyName, order: MixtureOrder) -> Fit:
    """Fit a mixture to rows.

    Args:
        rows: usable ones, see ``Rows.require_usable``.
        family: of the experts.
        order: what to fit, and what to compute beside it.

    Raises:
        InvalidOption: an option lies outside its domain, or does not fit the rows (more experts than rows).
    """
    with one_thread():
        return _exact(_counted(rows), family, order) if order.private is None else _private(rows, family, order)


def _counted(rows: Rows) -> Rows:
    """The rows of positive weight."""
    if rows.weights is None or rows.weights.all():
        return rows
    counted = rows.weights > 0
    return Rows(rows.x[counted], rows.y[counted], rows.weights[counted], rows.classes, rows.dropped)


def exact(released: str, note: str = "") -> ExactEvent:
    """An exact release about rows."""
    return ExactEvent(released=released, unit="row", note=note)


# an ordinary fit ------------------------------------------------------


def _exact(rows: Rows, family: FamilyName, order: MixtureOrder) -> Fit:
    estimator = _fitted(rows, family, order)
    mixture = widened(estimator, rows) if family == "multinomial" else estimator.mixture_
    covariates, events = _covariates(rows, order)
    sharpness, total = None, None
    events.insert(0, exact("mixture", "fitted without differential privacy"))
    if order.precision:
        sharpness = Precision(*precision(mixture, rows.x, rows.y, rows.weights))
        events.append(exact("precision"))
    if order.report_likelihood:
        total = log_likelihood(mixture, rows)
        events.append(exact("training", "log-likelihood of the rows"))
    ended, iterations = bool(estimator.converged_), int(estimator.n_iter_)
    return Fit(mixture, len(rows), ended, iterations, total, covariates, sharpness, tuple(events))


def _fitted(rows: Rows, family: FamilyName, order: MixtureOrder) -> Any:
    kind: Any = MixtureOfExpertsClassifier if family == "multinomial" else MixtureOfExpertsRegressor
    stated: dict[str, Any] = {"n_experts": order.n_experts, "random_state": order.seed}
    if family != "multinomial":
        stated["experts"] = family
    known = sorted(set(kind._get_param_names()) - set(stated))
    if unknown := sorted(set(order.options) - set(known)):
        raise InvalidOption(
            f"option '{unknown[0]}' of the fit", why="there is no such option", mend=f"There are {', '.join(known)}."
        )
    y = rows.y[:, 0] if rows.y.ndim == 2 and rows.y.shape[1] == 1 else rows.y
    return kind(**stated, **order.options).fit(rows.x, y, sample_weight=rows.weights)


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


def log_likelihood(mixture: Mixture[Experts], rows: Rows) -> float:
    """sum_i w_i log f(y_i | x_i), in nats."""
    values: Array = mixture.log_density(rows.x, rows.y)
    return float((values if rows.weights is None else values * rows.weights).sum())


def _covariates(rows: Rows, order: MixtureOrder) -> tuple[CovariateSummary | None, list[Event]]:
    if order.covariates is None:
        return None, []
    if isinstance(order.covariates, ClippedGaussian):
        summary, events = release_covariates(rows.x, order.covariates)
        return summary, list(events)
    summary = CovariateSummary.from_rows(
        rows.x, components=order.covariates, seed=order.seed, minimum_rows=order.minimum_rows
    )
    return summary, [exact("covariates")]


# a fit under noise ----------------------------------------------------


def _private(rows: Rows, family: FamilyName, order: MixtureOrder) -> Fit:
    if family != "gaussian":
        why = "noise is calibrated for regression alone"
        raise InvalidOption(f"a fit of family {family} under noise", why=why, mend="Ask for regression.")
    assert isinstance(order.n_experts, int)
    assert order.private is not None
    rule = order.private
    noisy = fit_privately(rows, order.n_experts, rule, order.seed)
    covariates, events = _covariates(rows, order)
    sharpness = None
    if isinstance(order.precision, ClippedGaussian):
        # parameters are already private, so a row's responsibilities depend on that row alone
        tau, gate = noisy.mixture.responsibilities(rows.x, rows.y), np.exp(noisy.mixture.log_gate(rows.x))
        grams, priced = release_precision(rows.x, tau, gate, order.precision)
        hessian = np.zeros((0, 0)) if grams.gate_hessian is None else grams.gate_hessian
        sharpness = Precision(grams.expert_grams, hessian)
        events += priced
    all_events = (*rule.events(), *events)
    return Fit(noisy.mixture, noisy.rows, True, rule.iterations, None, covariates, sharpness, all_events)
