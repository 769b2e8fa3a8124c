"""How far mixtures lie from each other, all pairs at once, each judged where both have data.

The gap between machines m and n at x is the mean of the two bounds of ``transport.divergence_bound``,

    g_mn(x) = 1/2 [ B(f_m, f_n; x) + B(f_n, f_m; x) ],

in nats a row, gates included. Averaged over a support it is weighted by lambda_m(x) lambda_n(x), the product of the
posteriors of both machines at x: a machine is no judge of places where it saw nothing. A pair whose weights have a
small cosine, or live on a handful of rows, is not judged at all.
"""

from __future__ import annotations

import numpy as np

from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.exponential import natural
from quiltwork.models.mixture.pool import Pool

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
    return np.stack([_towards(pool, target, weights) for target in range(len(pool.machines))], axis=1)


def _towards(pool: Pool, target: int, posterior: Array) -> Array:
    """The weighted bound from each machine to one: float64 ``[M]``."""
    machine, count = pool.machines[target], len(pool.machines)
    slopes, offsets = natural(machine.mixture.experts, pool.x)
    starts = [other.columns.start for other in pool.machines]
    costs = [np.einsum("jsl,js->sl", pool.statistics, slopes[:, k]) + offsets[k][:, None] for k in range(len(offsets))]
    nearest = np.minimum.reduce(costs)
    weights = pool.weights * (len(pool.x) * count)
    bound = np.add.reduceat(weights * (nearest + pool.entropies), starts, axis=1)
    log_gate, free = np.maximum(machine.mixture.log_gate(pool.x), LOG_FLOOR), np.ones(nearest.shape, dtype=bool)
    for k, cost in enumerate(costs):
        mine = (cost <= nearest) & free
        free ^= mine
        mass = np.add.reduceat(weights * mine, starts, axis=1)
        bound += mass * (np.log(np.maximum(mass, 1e-300)) - log_gate[:, [k]])
    shared = posterior * posterior[:, [target]]
    return np.asarray((shared * bound).sum(axis=0) / np.maximum(shared.sum(axis=0), np.finfo(float).tiny))
