"""Where a reduction starts: K experts out of the pool's own.

Two sorts of start, both independent of the order of machines and of their experts:

* the locals that have K experts, those first to which all others are nearest;
* experts chosen greedily. C[l, k], what expert l would pay on average if all its weight went to expert k, is one
  matrix product. The first choice pays least in total, each next one lowers ``sum_l min_chosen C[l, k]`` most (the
  BUILD phase of k-medoids, in the divergence itself and so in function space), and experts are then exchanged while
  that helps (its SWAP phase).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.exponential import joined
from quiltwork.models.mixture.pool import Pool

MOST_SWAPS = 20

ROUNDING = 1e-11
"""A gain below this share of the costs is rounding."""


def starts(pool: Pool, k: int, count: int) -> list[Experts]:
    """Up to ``count`` different starts with ``k`` experts each: the greedy choice, then locals."""
    every = joined([machine.mixture.experts for machine in pool.machines])
    costs = np.concatenate(pool.whole_costs(every))
    chosen = every.select(_swap(costs, _build(costs, k)))
    locals_ = _locals(pool, costs, k)
    return [chosen, *locals_][:count]


def _locals(pool: Pool, costs: Array, k: int) -> list[Experts]:
    """The experts of the locals that have ``k`` of them, those first to which all others are nearest."""
    sizes = np.cumsum([0, *(machine.mixture.n_experts for machine in pool.machines)])
    candidates = [m for m, machine in enumerate(pool.machines) if machine.mixture.n_experts == k]
    paid = [float(costs[:, sizes[m] : sizes[m + 1]].min(axis=1).sum()) for m in candidates]
    return [pool.machines[candidates[i]].mixture.experts for i in np.argsort(paid, kind="stable")]


def _build(costs: Array, k: int) -> list[int]:
    """Up to k experts; fewer where no further one lowers the cost by more than rounding."""
    chosen = [int(np.argmin(costs.sum(axis=0)))]
    paid = costs[:, chosen[0]]
    while len(chosen) < min(k, costs.shape[1]):
        totals = np.minimum(costs, paid[:, None]).sum(axis=0)
        best = int(np.argmin(totals))
        if float(paid.sum()) - float(totals[best]) <= ROUNDING * float(np.abs(paid).sum()):
            break
        chosen.append(best)
        paid = np.minimum(paid, costs[:, best])
    return chosen


def _swap(costs: Array, chosen: Sequence[int]) -> list[int]:
    """Exchange one chosen expert for another, the best exchange first, until none helps."""
    now = list(chosen)
    for _ in range(MOST_SWAPS):
        best, change = float(costs[:, now].min(axis=1).sum()), None
        for place in range(len(now)):
            rest = [expert for i, expert in enumerate(now) if i != place]
            others = costs[:, rest].min(axis=1) if rest else np.full(len(costs), np.inf)
            totals = np.minimum(costs, others[:, None]).sum(axis=0)
            totals[rest] = np.inf
            if totals.min() < best - ROUNDING * abs(best):
                best, change = float(totals.min()), (place, int(np.argmin(totals)))
        if change is None:
            break
        now[change[0]] = change[1]
    return now
