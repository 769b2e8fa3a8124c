"""A softmax gate for reduced experts, without responses.

``projected_gate``: the plan brings mass D_k(x) to expert k. Of all softmax gates the one nearest to these masses in
Kullback-Leibler divergence, averaged over x, solves a multinomial regression with D as soft targets. It asks for no
correspondence between experts, but it averages *probabilities*: machines whose slopes scatter around the truth by
estimation error have a mean probability that is flatter than the truth's.

``logit_gate``: where experts correspond, it is logits that are averaged. At x the machines' opinions are pooled
logarithmically, and one softmax gate is put through the pooled logits u by least squares,

    u(x) = sum_m lambda_m(x) log D_m(x)           argmin_a  E_x (u(x) - x'a)' (diag p - p p') (u(x) - x'a),

p being the gate's own probabilities (found by iteration): errors count where they would change probabilities, and a
machine counts where its covariates lie. For constant lambda_m and as many experts everywhere it is the weighted mean of
the machines' gate coefficients. A constant added to all of a machine's logits changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp, softmax

from quiltwork.models.mixture.design import Array, affine, augmented
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.majorise import make_plan
from quiltwork.models.mixture.pool import Machine, Pool
from quiltwork.models.mixture.regression import (
    TINY,
    newton_step,
    softmax_curvature,
    softmax_hessian,
    softmax_regression,
)
from quiltwork.models.mixture.small_samples import ROWS_A_PARAMETER, bias_pull

Owners = NDArray[np.intp]
"""The reduced expert of each of a machine's own: int ``[K_m]``."""

REWEIGHTINGS = 30

FLAT = 1e-5
"""Share of equal probabilities in the curvature, so that steep gates, whose own vanishes, stay determined."""

FRESH = 3
"""Reweightings for which the curvature is computed anew."""

SETTLED = 1e-6
"""Reweighting ends at steps below this share of the largest coefficient."""

CORRECTIONS = 2
"""The correction is computed at the uncorrected gate, and again at the corrected one."""


def projected_gate(pool: Pool, experts: Experts) -> SoftmaxGate:
    """The softmax gate nearest to the masses that the plan for ``experts`` brings."""
    plan = make_plan(pool, experts)
    return SoftmaxGate(softmax_regression(pool.x, plan.masses.T * len(pool.x), tolerance=1e-12))


def logit_gate(pool: Pool, owners: Sequence[Owners | None], n_experts: int) -> SoftmaxGate:
    """The softmax gate through the pooled logits of the machines whose experts have owners, all K of them.

    Corrected for the bias of small samples where machines' numbers of rows are known, see ``small_samples``.
    """
    opinions = [
        _Opinion(machine.rows, _weight(pool, machine), log_masses(machine, pool, own, n_experts), machine.count)
        for machine, own in zip(pool.machines, owners, strict=True)
        if own is not None
    ]
    fit = _Line(pool.x, opinions)
    a = fit.through(np.zeros((n_experts, 1 + pool.x.shape[1])), 0.0)
    for _ in range(CORRECTIONS):
        a = fit.through(a, fit.correction(a))
    return SoftmaxGate(a)


def correspondence(pool: Pool, experts: Experts) -> list[Owners | None]:
    """Which reduced expert each machine's experts stand for; None for a machine that has too few to stand for all.

    Each reduced expert is paired with one of the machine's, at the least total cost; further experts of the machine go
    to the nearest reduced one.
    """
    found: list[Owners | None] = []
    for cost in pool.whole_costs(experts):
        owners = np.asarray(cost.argmin(axis=1), dtype=np.intp)
        if len(cost) >= experts.n_experts:
            pairs = linear_sum_assignment(cost)
            owners[pairs[0]] = pairs[1]
        found.append(owners if len(cost) >= experts.n_experts else None)
    return found


@dataclass(frozen=True, eq=False)
class _Opinion:
    """One machine's logits at its rows, ``[S_m, K]``, the rows' weights, and how many rows it was fitted to."""

    rows: slice
    weights: Array
    logits: Array
    count: float


class _Line:
    """One softmax gate through many opinions, by reweighted least squares."""

    def __init__(self, x: Array, opinions: Sequence[_Opinion]) -> None:
        mass, rate, total = np.zeros(len(x)), np.zeros(len(x)), np.zeros((len(x), opinions[0].logits.shape[1]))
        self.opinions, self.floor = opinions, ROWS_A_PARAMETER * (total.shape[1] - 1) * (1 + x.shape[1])
        for one in opinions:
            total[one.rows] += one.weights[:, None] * one.logits
            mass[one.rows] += one.weights
            rate[one.rows] += one.weights / max(one.count, self.floor)
        self.x, self.mass, self.rate = x, mass, rate
        self.logits = total / np.maximum(mass, TINY)[:, None]
        self.wide = augmented(x)
        self.kept: Array | None = None

    def through(self, a: Array, pull: Array | float) -> Array:
        """Coefficients ``[K, p]`` at which the weighted gaps to the logits, and the extra pull, add up to nothing.

        The curvature sets the way there and not where it ends, so it is soon kept, until steps grow again.
        """
        last = size = np.inf
        for number in range(REWEIGHTINGS):
            values = affine(self.x, a)
            p = softmax(values, axis=1)
            gap = self.logits - values
            drawn = curved(p, gap) + FLAT * curved(np.full_like(p, 1 / p.shape[1]), gap)
            gradient = (self.mass[:, None] * drawn).T @ self.wide + pull
            if number < FRESH or self.kept is None or size > last:
                self.kept = self.hessian(p)
            step = newton_step(gradient.ravel(), self.kept).reshape(a.shape)
            last, size = size, float(np.abs(step).max())
            a = a + step
            if size <= SETTLED * max(1.0, float(np.abs(a).max())):
                break
        return a

    def hessian(self, p: Array) -> Array:
        """Of the gate at probabilities p, float64 ``[K p, K p]``, with full rank along equal shifts."""
        flat = FLAT * self.mass / p.shape[1] ** 2
        curves = softmax_curvature(p.T.copy(), self.mass) + flat
        edges = [(self.wide * edge[:, None]).T @ self.wide for edge in curves]
        width = self.wide.shape[1]
        return softmax_hessian(np.reshape(edges, (-1, width, width)), p.shape[1], np.zeros(width))

    def correction(self, a: Array) -> Array | float:
        """The pull against the bias of small samples, in the measure in which opinions scatter."""
        p = softmax(affine(self.x, a), axis=1)
        share = self.scatter(a, p)
        return share * bias_pull(self.x, p, self.mass, self.rate, self.hessian(p)) if share > 0 else 0.0

    def scatter(self, a: Array, p: Array) -> float:
        """Mean square of the opinions' gaps relative to what sampling theory expects of them, at most 1."""
        seen, expected = 0.0, 0.0
        values, total = affine(self.x, a), float(self.mass.sum())
        for one in self.opinions:
            gap, share = one.logits - values[one.rows], float(one.weights.sum()) / total
            seen += float((one.weights[:, None] * gap * curved(p[one.rows], gap)).sum())
            expected += share * (1 - share) * a[1:].size / max(one.count, self.floor)
        return min(1.0, seen / (total * expected)) if expected > 0 else 0.0


def curved(p: Array, gap: Array) -> Array:
    """(diag p - p p') times the gap, row by row."""
    return np.asarray(p * (gap - (p * gap).sum(axis=1, keepdims=True)))


def _weight(pool: Pool, machine: Machine) -> Array:
    return np.asarray(pool.weights[machine.rows, machine.columns].sum(axis=1))


def log_masses(machine: Machine, pool: Pool, owners: Owners, n_experts: int) -> Array:
    """Log of the machine's gate, summed over the experts that stand for the same: ``[S, K]``, centred over K."""
    logs = machine.mixture.log_gate(pool.x[machine.rows])
    values = np.stack([logsumexp(logs[:, owners == k], axis=1) for k in range(n_experts)], axis=1)
    return np.asarray(values - values.mean(axis=1, keepdims=True))
