"""Screening: which local fits to leave out of a composition, and why, before they spoil it.

One fit that ended in a poor optimum, diverged or collapsed onto a few rows moves every mean and every pooled expert.
Nobody has rows to test it on, but others fitted the same thing: a fit is suspect when it stands far even from those
nearest to it.

1. Parameters that are not finite, and variances out of all proportion to the other machines', are refused outright.
2. Of each machine's gaps to the others (`quiltwork.models.mixture.neighbours`: nats a row, only where both have data)
   the lower quartile is its *isolation*. A quarter of the machines may thus differ from the rest and stay, as long as
   they agree with each other: disagreement between groups is a finding, not a fault.
3. Fewer rows mean a larger error, so a machine below the median number of rows is allowed more in proportion.
4. A machine is left out where its isolation is ``FACTOR`` times the median machine's, and ``DEVIATIONS`` robust
   standard deviations above it in logarithms, and ``LEAST_GAP`` nats above it. A fit that did not converge is held to
   half the factor and half the deviations.

A majority must remain: of M machines at most (M - 1) / 2 are left out, the most isolated first. With two machines
nobody can say which is right, and no gap is judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.gates import ConstantWeights, MachineWeights
from quiltwork.models.mixture.local import Local
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.neighbours import gaps
from quiltwork.models.mixture.pool import everywhere, softmax_gate
from quiltwork.models.mixture.regression import TINY
from quiltwork.models.mixture.transport import divergence_bound

FACTOR = 3.0
DEVIATIONS = 4.0
LEAST_GAP = 0.1

LEAST_SPREAD = 0.1
"""Robust standard deviations of log-isolations count as no smaller."""

COLLAPSED = 1e-6
"""A variance below this share of the median machine's smallest one is a collapse."""

LARGEST = 1e100
"""Parameters beyond this overflow in squares."""


def screen(locals_: Sequence[Local], x: Array, posterior: MachineWeights | None = None) -> Mapping[str, str]:
    """The parties to leave out, each with the reason.

    Args:
        locals_: machines of one table.
        x: covariates on which they are compared, float64 ``[S, d]``.
        posterior: each machine's weight at x, for judging pairs where both have data; None to judge all everywhere.
    """
    excluded = _impossible(locals_)
    rest = [local for local in locals_ if local.party not in excluded]
    most = (len(locals_) - 1) // 2 - len(excluded)
    if len(rest) < 3 or most < 1:
        return excluded
    seen = np.full((len(x), len(locals_)), 0.0) if posterior is None else posterior.log_weights(x)
    kept = [m for m, local in enumerate(locals_) if local.party not in excluded]
    return {**excluded, **_isolated(rest, x, np.exp(seen[:, kept]), most)}


def strangers(
    able: Sequence[Local], locals_: Sequence[Local], reduced: Mixture[Experts], rows: Sequence[Array]
) -> Mapping[str, str]:
    """The parties that are not among the ``able`` and stand far from what became of these, each with the reason.

    Args:
        able: machines with at least as many experts as ``reduced``.
        locals_: all machines.
        reduced: the reduction of the able ones.
        rows: of each of ``locals_``, covariates at which it is compared.
    """
    gap = {
        local.party: float(divergence_bound(local.mixture, reduced, x).mean())
        for local, x in zip(locals_, rows, strict=True)
    }
    names = {local.party for local in able}
    usual = float(np.median([gap[name] for name in names]))
    far = [one for one in locals_ if one.party not in names and gap[one.party] > max(FACTOR * usual, usual + LEAST_GAP)]
    return {
        one.party: f"its {one.mixture.n_experts} experts stand {gap[one.party]:.3g} nats a row from what the machines "
        f"with at least {reduced.n_experts} reduce to, where {usual:.3g} is usual"
        for one in far
    }


def _impossible(locals_: Sequence[Local]) -> dict[str, str]:
    found = {}
    smallest = {local.party: _variances(local) for local in locals_}
    usual = [values.min() for values in smallest.values() if values.size and np.isfinite(values).all()]
    for local in locals_:
        arrays = [*local.mixture.experts.parameters().values(), softmax_gate(local.mixture).coefficients]
        if not all((np.abs(array) < LARGEST).all() for array in arrays):
            found[local.party] = "its fit has parameters that are not finite"
        elif usual and smallest[local.party].min() < COLLAPSED * np.median(usual):
            variance = smallest[local.party].min()
            found[local.party] = f"an expert collapsed: variance {variance:.3g}, where {np.median(usual):.3g} is usual"
    return found


def _isolated(locals_: Sequence[Local], x: Array, posterior: Array, most: int) -> dict[str, str]:
    pool = everywhere([local.mixture for local in locals_], ConstantWeights(np.ones(len(locals_))), x)
    isolation = np.maximum(isolations(gaps(pool, posterior)), 0.0)
    judged = np.isfinite(isolation)
    if judged.sum() < 3:
        return {}
    rows = np.array([local.rows for local in locals_], dtype=np.float64)
    allowed = isolation / np.maximum(1.0, np.median(rows) / rows)
    usual = max(float(np.median(allowed[judged])), TINY)
    spread = 1.4826 * float(np.median(np.abs(np.log(np.maximum(allowed[judged], TINY) / usual))))
    strict = np.array([1.0 if local.converged else 0.5 for local in locals_])
    most_usual = usual * np.maximum(FACTOR * strict, np.exp(DEVIATIONS * strict * max(spread, LEAST_SPREAD)))
    suspect = judged & (allowed > most_usual) & (allowed > usual + LEAST_GAP)
    worst = sorted(map(int, np.flatnonzero(suspect)), key=lambda m: (-allowed[m], locals_[m].party))[:most]
    return {locals_[m].party: _reason(locals_[m], float(isolation[m]), usual) for m in sorted(worst)}


def isolations(pairwise: Array) -> Array:
    """The lower quartile of each machine's gaps: float64 ``[M]``, not a number with fewer than two of them."""
    found = np.full(len(pairwise), np.nan)
    for m, row in enumerate(pairwise):
        judged = row[np.isfinite(row)]
        if len(judged) >= 2:
            found[m] = np.quantile(judged, 0.25, method="lower")
    return found


def _reason(local: Local, isolation: float, usual: float) -> str:
    distance = f"its fit stands up to {isolation:.3g} nats a row (a bound) from the quarter of machines nearest to it"
    unsettled = "" if local.converged else ", and it had not converged"
    return f"{distance}, where up to {usual:.3g} is usual{unsettled}"


def _variances(local: Local) -> Array:
    experts = local.mixture.experts
    return experts.variances if isinstance(experts, GaussianExperts) else np.empty(0)
