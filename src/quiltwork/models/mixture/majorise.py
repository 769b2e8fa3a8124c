"""Majorise and minimise: the steps that fit K experts to a pool (Chamroukhi and Pham, arXiv 2312.09877).

    objective(h) = E [ min_k KL(phi_l || h_k) ]        over pooled entries (s, l)

A plan sends each entry to its nearest expert; holding the plan, the total cost majorises the objective, and ``refit``
minimises it. Neither step can raise the objective, and each is checked.

A soft plan sends P_k proportional to exp(-KL / e) instead. With its entropy, the total cost is then

    objective(h) = -e E [ log sum_k exp(-KL(phi_l || h_k) / e) ],

smooth in h, tending to the hard one as e goes to nothing: a way out of poor starts.

A step streams the pool's arrays once, in blocks that stay in cache, and holds no array of size L x K x S. The
divergences enter as differences from the last expert's, which is linear in the statistics; what the last expert
receives follows from totals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from quiltwork.errors import BrokenPromise
from quiltwork.models.mixture.design import Array, blocks
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.exponential import natural, refit
from quiltwork.models.mixture.pool import Pool

BLOCK_ENTRIES = 1 << 16
"""Entries of the pool worked on at a time: few enough for a cache, enough to make calls cheap (measured)."""

ROUNDING = 1e-11
"""A rise below this share of the terms that are summed is rounding."""

EMPTY = 1e-12
"""An expert with less than this share of the weight has none."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What a plan brings to each expert at each row.

    Attributes:
        masses: D, float64 ``[K, S]``, summing to one.
        moments: T, float64 ``[J, K, S]``, weighted sums of statistics.
        objective: nats a row, of the experts that the plan was made for.
        scale: mean size of the terms that made the objective, for judging rounding.
    """

    masses: Array
    moments: Array
    objective: float
    scale: float

    @property
    def shares(self) -> Array:
        """Weight of each expert: float64 ``[K]``, sums to one."""
        return np.asarray(self.masses.sum(axis=1))


@dataclass(frozen=True, eq=False)
class Descent:
    """Where the steps led.

    Attributes:
        experts: the last ones, of which each has some weight.
        plan: theirs.
        path: the objective after each step, never rising.
        settled: whether the last step gained less than the tolerance.
    """

    experts: Experts
    plan: Plan
    path: tuple[float, ...]
    settled: bool


def descend(pool: Pool, start: Experts, *, max_iterations: int, tolerance: float, softness: float = 0.0) -> Descent:
    """Steps from ``start`` until one gains at most ``tolerance`` nats a row.

    Experts that no weight goes to are dropped.

    Raises:
        BrokenPromise: the objective rose.
    """
    experts, plan = assign(pool, start, softness)
    path = [plan.objective]
    for _ in range(max_iterations):
        candidate = refit(experts, pool.x, plan.masses, plan.moments)
        if softness == 0.0:
            _never_rises("refitted experts", plan.objective, plan_cost(pool, plan, candidate), plan.scale)
        experts, following = assign(pool, candidate, softness)
        _never_rises("a new plan", plan.objective, following.objective, max(plan.scale, following.scale))
        gain, plan = plan.objective - following.objective, following
        path.append(min(plan.objective, path[-1]))
        if gain <= tolerance:
            return Descent(experts, plan, tuple(path), True)
    return Descent(experts, plan, tuple(path), False)


def assign(pool: Pool, experts: Experts, softness: float = 0.0) -> tuple[Experts, Plan]:
    """The plan for ``experts``, hard or soft with e = ``softness`` nats, and those of them that receive any weight."""
    plan = make_plan(pool, experts, softness)
    used = np.flatnonzero(plan.shares > EMPTY)
    if len(used) == experts.n_experts:
        return experts, plan
    kept = experts.select([int(k) for k in used])
    return kept, replace(plan, masses=plan.masses[used], moments=plan.moments[:, used])


def make_plan(pool: Pool, experts: Experts, softness: float = 0.0) -> Plan:
    """One pass over the pool: the best plan for ``experts``, what it brings, and the objective."""
    slopes, offsets = natural(experts, pool.x)
    masses, moments = np.zeros(offsets.shape), np.zeros(slopes.shape)
    size = max(1, BLOCK_ENTRIES // pool.weights.shape[1])
    scratch = np.empty((len(offsets) + 1, size, pool.weights.shape[1]))
    saved = 0.0
    for rows in blocks(len(pool.x), size):
        weights = pool.weights[rows]
        gaps, low, hold = _gaps(pool, slopes, offsets, rows, scratch)
        send = _soft(gaps, low, hold, weights, softness) if softness else _hard(gaps, low, hold, weights)
        for k, sent in enumerate(send):
            masses[k, rows], moments[:, k, rows] = _received(sent, pool.statistics[:, rows])
        saved += float(np.vdot(low, weights))
    mass, moment = pool.totals
    masses[-1] = np.maximum(mass - masses[:-1].sum(axis=0), 0.0)
    moments[:, -1] = moment - moments[:, :-1].sum(axis=1)
    last = np.vdot(mass, offsets[-1]) + np.vdot(moment, slopes[:, -1])
    # ``saved`` has one sign; of a soft plan with far-off experts it is nearly all of the objective
    scale = np.abs(masses * offsets).sum() + np.abs(moments * slopes).sum() + abs(pool.entropy) + abs(saved)
    return Plan(masses, moments, pool.entropy + float(last) + saved, float(scale))


def plan_cost(pool: Pool, plan: Plan, experts: Experts) -> float:
    """The mean divergence of a hard plan if its masses went to ``experts`` instead."""
    slopes, offsets = natural(experts, pool.x)
    return pool.entropy + float(np.vdot(plan.masses, offsets) + np.vdot(plan.moments, slopes))


def _gaps(pool: Pool, slopes: Array, offsets: Array, rows: slice, scratch: Array) -> tuple[Array, Array, Array]:
    """Divergence from each expert but the last less that from the last, ``[K - 1, B, L]``; two arrays ``[B, L]``.

    The second array holds the least of these gaps and 0; the third is free.
    """
    statistics = pool.statistics[:, rows]
    scratch = scratch[:, : statistics.shape[1]]
    gaps, low, hold = scratch[:-2], scratch[-2], scratch[-1]
    low[:] = 0.0
    for k, gap in enumerate(gaps):
        steps = slopes[:, k, rows] - slopes[:, -1, rows]
        np.multiply(statistics[0], steps[0, :, None], out=gap)
        for statistic, step in zip(statistics[1:], steps[1:], strict=True):
            np.multiply(statistic, step[0] if step.min() == step.max() else step[:, None], out=hold)
            gap += hold
        gap += (offsets[k, rows] - offsets[-1, rows])[:, None]
        np.minimum(low, gap, out=low)
    return gaps, low, hold


def _hard(gaps: Array, low: Array, hold: Array, weights: Array) -> Iterator[Array]:
    """The weights that go to each expert but the last, in turn in one array.

    Of equal experts one takes all: the last if it is among them, else the first.
    """
    free = low < 0.0
    for gap in gaps:
        mine = gap <= low
        mine &= free
        free ^= mine
        yield np.multiply(weights, mine, out=hold)


def _soft(gaps: Array, low: Array, hold: Array, weights: Array, softness: float) -> Iterator[Array]:
    """As `_hard`, with weights shared out by exp(-gap / e); ``low`` becomes the smoothed least gap."""
    np.subtract(low, gaps, out=gaps)
    gaps /= softness
    np.exp(gaps, out=gaps)
    np.exp(low / softness, out=hold)
    total = gaps.sum(axis=0) + hold
    low -= softness * np.log(total)
    total = weights / total
    for gap in gaps:
        yield np.multiply(total, gap, out=hold)


def _received(sent: Array, statistics: Array) -> tuple[Array, Array]:
    """Row sums of what is sent, and of its products with each statistic: ``[B]`` and ``[J, B]``."""
    return sent @ np.ones(sent.shape[1]), (sent[:, None, :] @ statistics[..., None])[..., 0, 0]


def _never_rises(what: str, before: float, after: float, scale: float) -> None:
    if not after <= before + ROUNDING * scale:
        raise BrokenPromise(
            f"the reduction's objective after {what}",
            why=f"it went from {before:.12g} to {after:.12g}, and no step can raise it",
            mend="Look for parameters out of all proportion in the locals; else report it.",
        )
