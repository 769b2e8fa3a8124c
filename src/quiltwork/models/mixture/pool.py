"""The pooled large mixture at a support of covariates: every machine's experts, as numbers a reduction can stream.

    f(y | x) = sum_m lambda_m(x) sum_k pi_mk(x) phi_mk(y | x)

Entry (s, l) of ``weights`` is the probability that a pooled response is drawn at support row s from expert l; all of
them sum to one, so that sums over entries are expectations. There are two ways to come by them:

* `everywhere`: each machine is evaluated at every row, weighted by lambda_m(x). Constant weights let a machine
  speak where it has no data.
* `at_home`: machine m is evaluated at its own rows alone, drawn from the law p_m of its covariates. For
  lambda_m(x) proportional to N_m p_m(x) and x from the pooled law this is the same expectation,

      E_x [lambda_m(x) g(x)] = (N_m / N) E_{x ~ p_m} [g(x)],

  without a density evaluated, M times cheaper, and a sum over machines in which each has its own terms.

Covariates are put in standard units, and linear experts are taken relative to their median one, which changes no
divergence and keeps squares small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise
from typing import Any

import numpy as np

from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.design import Array, in_raw_units, in_standard_units
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.exponential import expected, natural, with_coefficients
from quiltwork.models.mixture.gates import MachineWeights, SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture


@dataclass(frozen=True, eq=False)
class Units:
    """The coordinates in which a pool is kept.

    Attributes:
        centre: float64 ``[d]`` of the covariates.
        scale: float64 ``[d]``, positive.
        baseline: float64 ``[q, 1 + d]`` in raw units; linear experts are kept relative to it.
    """

    centre: Array
    scale: Array
    baseline: Array

    @classmethod
    def of(cls, mixtures: Sequence[Mixture[Experts]], x: Array) -> Units:
        """Standard units of x; the baseline is the median expert, zero but for linear experts."""
        spread = x.std(axis=0)
        tiny = 1e-12 * np.abs(x).max(axis=0, initial=0.0)
        stacked = np.concatenate([mixture.experts.coefficients for mixture in mixtures])
        linear = isinstance(mixtures[0].experts, GaussianExperts)
        baseline = np.median(stacked, axis=0) if linear else np.zeros(stacked.shape[1:])
        return cls(x.mean(axis=0), np.where(spread > tiny, spread, 1.0), baseline)

    def rows(self, x: Array) -> Array:
        """Covariates in these units."""
        return np.asarray((x - self.centre) / self.scale)

    def to(self, mixture: Mixture[Experts]) -> Mixture[Experts]:
        """A mixture under a softmax gate in these units."""
        gate, experts = softmax_gate(mixture), mixture.experts
        moved = in_standard_units(experts.coefficients - self.baseline, self.centre, self.scale)
        return Mixture(
            SoftmaxGate(in_standard_units(gate.coefficients, self.centre, self.scale)),
            with_coefficients(experts, moved),
        )

    def back(self, mixture: Mixture[Experts]) -> Mixture[Experts]:
        """The inverse of `to`, its gate with zeros in the last row."""
        gate, experts = softmax_gate(mixture), mixture.experts
        moved = self.raw_coefficients(experts.coefficients)
        return Mixture(
            SoftmaxGate(in_raw_units(gate.coefficients, self.centre, self.scale)).anchored(),
            with_coefficients(experts, moved),
        )

    def raw_coefficients(self, coefficients: Array) -> Array:
        """Coefficients of experts in these units, ``[K, q, 1 + d]``, in raw ones."""
        return in_raw_units(coefficients, self.centre, self.scale) + self.baseline

    def grams(self, grams: Array) -> Array:
        """Gram matrices ``[..., p, p]`` of raw covariates with a leading one, for covariates in these units."""
        change = np.diag(np.concatenate([[1.0], 1.0 / self.scale]))
        change[1:, 0] = -self.centre / self.scale
        return np.asarray(change @ grams @ change.T)


@dataclass(frozen=True, eq=False)
class Machine:
    """Where a machine stands in a pool.

    Attributes:
        mixture: its mixture, in the pool's units.
        rows: the support rows at which it is evaluated.
        columns: its experts among the pool's columns.
        share: its weight, N_m / N as a rule.
        count: N_m, the rows that it was fitted to; infinite where unknown.
    """

    mixture: Mixture[Experts]
    rows: slice
    columns: slice
    share: float
    count: float


@dataclass(frozen=True, eq=False)
class Pool:
    """S support rows, and what up to L experts expect at each.

    Attributes:
        x: float64 ``[S, d]``, in ``units``.
        weights: float64 ``[S, L]``, sum to one.
        statistics: float64 ``[J, S, L]``, see ``exponential``.
        entropies: negative entropies, float64 ``[S, L]``.
        machines: one a machine.
        units: of everything here.
    """

    x: Array
    weights: Array
    statistics: Array
    entropies: Array
    machines: tuple[Machine, ...]
    units: Units

    @cached_property
    def entropy(self) -> float:
        """The pooled experts' mean negative entropy."""
        return float(np.vdot(self.weights, self.entropies))

    @cached_property
    def totals(self) -> tuple[Array, Array]:
        """Weight at each row, float64 ``[S]``, and weighted statistics, ``[J, S]``."""
        moments = (self.weights[:, None, :] @ self.statistics[..., None])[..., 0, 0]
        return self.weights.sum(axis=1), np.asarray(moments)

    def thinned(self, most: int) -> Pool:
        """The same pool at every so many-th row, at most ``most`` of them: views, not copies."""
        step = -(-len(self.x) // most)
        if step == 1:
            return self
        weights = self.weights[::step]
        return replace(
            self,
            x=self.x[::step],
            weights=weights / weights.sum(),
            statistics=self.statistics[:, ::step],
            entropies=self.entropies[::step],
            machines=tuple(replace(machine, rows=_every(machine.rows, step)) for machine in self.machines),
        )

    def whole_costs(self, experts: Experts) -> list[Array]:
        """What each pooled expert would pay if all its weight went to one of ``experts``: ``[K_m, K]`` a machine.

        Nats, times the pooled expert's weight, up to a term for each pooled expert that no comparison of columns sees.
        """
        found: list[Array] = []
        for rows, group in groupby(self.machines, key=lambda machine: machine.rows):
            together = list(group)
            columns = slice(together[0].columns.start, together[-1].columns.stop)
            slopes, offsets = natural(experts, self.x[rows])
            weights = self.weights[rows, columns]
            costs = weights.T @ offsets.T
            for statistic, slope in zip(self.statistics[:, rows, columns], slopes, strict=True):
                costs += (weights * statistic).T @ slope.T
            found += [costs[m.columns.start - columns.start : m.columns.stop - columns.start] for m in together]
        return found


def everywhere(
    mixtures: Sequence[Mixture[Experts]], weights: MachineWeights, x: Array, counts: Array | None = None
) -> Pool:
    """The pool in which each machine is evaluated at each row.

    Args:
        mixtures: one a machine, of one family, under softmax gates.
        weights: lambda_m(x), for as many machines.
        x: float64 ``[S, d]``, raw units.
        counts: N_m, the rows that each was fitted to, float64 ``[M]``; None if unknown.

    Raises:
        InvalidOption: a gate is no softmax gate, or there are no rows.
    """
    units = Units.of(mixtures, _some(x))
    moved, rows = [units.to(mixture) for mixture in mixtures], units.rows(x)
    shares = np.exp(weights.log_weights(x)) / len(x)
    columns = _columns([mixture.n_experts for mixture in moved])
    table = np.empty((len(x), columns[-1].stop))
    entropies, statistics = np.zeros(table.shape), None
    for m, mixture in enumerate(moved):
        table[:, columns[m]] = np.exp(mixture.log_gate(rows)) * shares[:, [m]]
        values, entropies[:, columns[m]] = expected(mixture.experts, rows)
        statistics = np.empty((len(values), *table.shape)) if statistics is None else statistics
        statistics[:, :, columns[m]] = values
    fitted = np.full(len(moved), np.inf) if counts is None else counts
    places = zip(moved, columns, shares.sum(axis=0), fitted, strict=True)
    machines = tuple(Machine(one, slice(0, len(x)), place, float(share), float(n)) for one, place, share, n in places)
    return Pool(rows, table, np.asarray(statistics), entropies, machines, units)


def at_home(
    mixtures: Sequence[Mixture[Experts]], counts: Array, supports: Sequence[Array], units: Units | None = None
) -> Pool:
    """The pool in which each machine is evaluated at its own rows.

    Args:
        mixtures: one a machine, of one family, under softmax gates.
        counts: N_m, the rows that each was fitted to and its weight, float64 ``[M]``, positive.
        supports: float64 ``[S_m, d]`` each, in raw units, drawn from the machine's covariates.
        units: of the pool; those of all support rows if None.

    Raises:
        InvalidOption: a gate is no softmax gate, or a machine has no rows.
    """
    x = np.concatenate([_some(rows) for rows in supports])
    units = units or Units.of(mixtures, x)
    moved, rows = [units.to(mixture) for mixture in mixtures], units.rows(x)
    total = float(counts.sum())
    places = _columns([len(support) for support in supports])
    width = max(mixture.n_experts for mixture in moved)
    table, entropies, statistics = np.zeros((len(x), width)), np.zeros((len(x), width)), None
    machines = []
    for mixture, place, count in zip(moved, places, counts, strict=True):
        columns = slice(0, mixture.n_experts)
        own = np.exp(mixture.log_gate(rows[place])) * (count / total / (place.stop - place.start))
        values, entropies[place, columns] = expected(mixture.experts, rows[place])
        statistics = np.zeros((len(values), *table.shape)) if statistics is None else statistics
        table[place, columns], statistics[:, place, columns] = own, values
        machines.append(Machine(mixture, place, columns, float(count) / total, float(count)))
    return Pool(rows, table, np.asarray(statistics), entropies, tuple(machines), units)


def softmax_gate(mixture: Mixture[Any]) -> SoftmaxGate:
    """The mixture's gate.

    Raises:
        InvalidOption: it is of another kind.
    """
    if isinstance(mixture.gate, SoftmaxGate):
        return mixture.gate
    raise InvalidOption(
        f"a gate of type {type(mixture.gate).__name__}",
        why="only a softmax gate has coefficients to be reduced",
        mend="Give the machines' own mixtures, not a pooled one.",
    )


def _some(x: Array) -> Array:
    if len(x):
        return x
    raise InvalidOption("support", why="it has no rows", mend="Draw or give at least one covariate row a machine.")


def _columns(sizes: Sequence[int]) -> list[slice]:
    ends = np.cumsum([0, *sizes])
    return [slice(int(start), int(end)) for start, end in pairwise(ends)]


def _every(rows: slice, step: int) -> slice:
    """Which of every ``step``-th rows lie in ``rows``."""
    return slice(-(-rows.start // step), -(-rows.stop // step))
