"""How far mixtures lie from each other, all pairs at once, each judged where both have data.

The gap between machines m and n at x is the mean of the two bounds of ``transport.divergence_bound``,

    g_mn(x) = 1/2 [ B(f_m, f_n; x) + B(f_n, f_m; x) ],

in nats a row, gates included. Averaged over a support it is weighted by lambda_m(x) lambda_n(x), the product of the
posteriors of both machines at x: a machine is no judge of places where it saw nothing. A pair whose weights have a
small cosine, or live on a handful of rows, is not judged at all.
"""

from __future__ import annotations

import numpy as np

from quiltwork.models.mixture.design import Array, blocks
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.exponential import natural
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.pool import Pool

BLOCK_ENTRIES = 1 << 15
"""Entries of the pool worked on at a time."""

LEAST_OVERLAP = 0.1
"""Least cosine between the weights of two machines that are compared."""

LEAST_ROWS = 8.0
"""Least effective number of support rows on which two machines are compared."""

LOG_FLOOR = -30.0
"""Gates count as no smaller than this logarithm."""


def gaps(pool: Pool, posterior: Array) -> Array:
    """Gaps between machines of a pool in which each is evaluated at each row.

    Args:
        pool: from ``pool.everywhere`` with equal weights.
        posterior: lambda, float64 ``[S, M]``, the machines' weights at its rows.

    Returns:
        float64 ``[M, M]``, symmetric, nats; not a number where a pair is not judged, and on the diagonal.
    """
    directed = bounds(pool, posterior)
    found = 0.5 * (directed + directed.T)
    products = posterior.T @ posterior
    size = np.sqrt(products.diagonal())
    squares = (posterior**2).T @ posterior**2
    effective = products**2 / np.maximum(squares, np.finfo(float).tiny)
    found[(products < LEAST_OVERLAP * np.outer(size, size)) | (effective < LEAST_ROWS)] = np.nan
    np.fill_diagonal(found, np.nan)
    return found


def bounds(pool: Pool, weights: Array) -> Array:
    """The mean bound B(f_m, f_n) from each machine m to each machine n.

    Args:
        pool: from ``pool.everywhere`` with equal weights.
        weights: of a row for a machine, float64 ``[S, M]``; a pair's is the product. Ones for the plain mean.

    Returns:
        float64 ``[M, M]``, nats a row, zero on the diagonal but for rounding.
    """
    total, shared = np.zeros((2, len(pool.machines), len(pool.machines)))
    for rows in blocks(len(pool.x), max(1, BLOCK_ENTRIES // pool.weights.shape[1])):
        total += _weighted_bounds(pool, rows, weights[rows])
        shared += weights[rows].T @ weights[rows]
    return total / np.maximum(shared, np.finfo(float).tiny)


def _weighted_bounds(pool: Pool, rows: slice, posterior: Array) -> Array:
    """Sums over some rows, few enough to stay in cache: ``[M, M]``."""
    scaled = pool.weights[rows] * (len(pool.x) * len(pool.machines))
    own = _by_machine(pool, scaled * pool.entropies[rows])
    found = np.empty((len(pool.machines), len(pool.machines)))
    for target, machine in enumerate(pool.machines):
        bound = own + _towards(pool, rows, scaled, machine.mixture)
        found[:, target] = (posterior * posterior[:, [target]] * bound).sum(axis=0)
    return found


def _towards(pool: Pool, rows: slice, scaled: Array, mixture: Mixture[Experts]) -> Array:
    """The bound from each machine to one at each row, but for the machine's own entropy: ``[S, M]``."""
    x = pool.x[rows]
    slopes, offsets = natural(mixture.experts, x)
    costs = [_cost(pool.statistics[:, rows], slopes[:, k], offsets[k]) for k in range(len(offsets))]
    nearest = np.minimum.reduce(costs)
    bound = _by_machine(pool, scaled * nearest)
    log_gate, free = np.maximum(mixture.log_gate(x), LOG_FLOOR), np.ones(nearest.shape, dtype=bool)
    for k, cost in enumerate(costs):
        mine = cost <= nearest
        mine &= free
        free ^= mine
        mass = _by_machine(pool, scaled * mine)
        bound += mass * (np.log(np.maximum(mass, 1e-300)) - log_gate[:, [k]])
    return bound


def _cost(statistics: Array, slopes: Array, offsets: Array) -> Array:
    """Divergence to one expert but for the pooled experts' own terms: ``[S, L]``."""
    cost = statistics[0] * slopes[0][:, None]
    for statistic, slope in zip(statistics[1:], slopes[1:], strict=True):
        cost += statistic * slope[:, None]
    cost += offsets[:, None]
    return np.asarray(cost)


def _by_machine(pool: Pool, entries: Array) -> Array:
    """Sums over each machine's experts: ``[S, M]``."""
    return np.asarray(np.add.reduceat(entries, [machine.columns.start for machine in pool.machines], axis=1))
