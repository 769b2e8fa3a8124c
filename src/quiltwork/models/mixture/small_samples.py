"""What small local samples do to a composition, and how it is undone.

Each machine's fit is a maximum-likelihood fit to few rows, with errors that averaging over machines does not remove.

**Gates are too steep.** In an exponential family with canonical link the bias of maximum likelihood is, to first order,
b = -1/2 H^-1 sum_i x_i (x) c_i, with the information H and the third cumulants of the class indicators contracted with
the variances V_i of the logits (Cordeiro and McCullagh, J. R. Statist. Soc. B 53, 1991; for classes with probabilities
p),

    c_k = p_k (q_k - sum_j p_j q_j)        q_k = V_kk - 2 (V p)_k.

Averaging logits keeps the bias whole. Machine m's information is about N_m times the pooled one per row, so V and the
whole correction follow from the pooled gate, the covariates and the N_m: ``bias_pull``. It is applied in the measure in
which machines' gates do scatter, ``scatter`` relative to sampling theory: copies of one gate are averaged as they are.

**Experts with few rows are wild.** An expert fitted to n rows at p coefficients has errors whose mean square at new
covariates is proportional to 1 / (n - p - 1), not 1 / n, for Gaussian covariates (the mean of an inverse Wishart
matrix). Weighted by what it is worth, n - p - 1 instead of n, it counts in the transport with ``trust``
(n - p - 1) / n, and below p + 1 rows with next to nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from quiltwork.models.mixture.design import Array, augmented, blocks
from quiltwork.models.mixture.pool import Pool
from quiltwork.models.mixture.regression import TINY

LEAST_TRUST = 0.01

ROWS_A_PARAMETER = 4.0
"""Bias is corrected as for no fewer rows a gate coefficient; below, the first order says nothing."""

MOST_VARIANCE = 5.0
"""The logits' variances at a row count as adding up to no more: beyond, too, the first order says nothing."""

MOST_ROWS = 4000
"""Rows on which the correction is summed."""


def trusted(pool: Pool) -> Pool:
    """The pool with each expert's weight times its trust; as it is where numbers of rows are unknown."""
    weights, p = pool.weights.copy(), 1 + pool.x.shape[1]
    for machine in pool.machines:
        own = weights[machine.rows, machine.columns]
        rows = machine.count * own.sum(axis=0) / own.sum()
        own *= np.maximum(1.0 - (p + 1.0) / np.maximum(rows, TINY), LEAST_TRUST)
    return replace(pool, weights=weights / weights.sum())


def bias_pull(x: Array, p: Array, mass: Array, rate: Array, hessian: Array) -> Array:
    """1/2 sum_s rate_s x_s (x) c_s, the first-order bias of pooled logits times minus the Hessian: ``[K, 1 + d]``.

    Args:
        x: float64 ``[S, d]``.
        p: the gate's probabilities there, float64 ``[S, K]``.
        mass: weight of the rows, float64 ``[S]``.
        rate: sum over machines of their weight at the row over their N_m, float64 ``[S]``.
        hessian: of the gate for one row of data, float64 ``[K (1 + d), K (1 + d)]``; may be singular.
    """
    step = -(-len(x) // max(MOST_ROWS, 20 * (1 + x.shape[1])))
    share = mass[::step].sum() / mass.sum()
    x, p, rate, mass = x[::step], p[::step], rate[::step] / share, mass[::step] / share
    classes, width = p.shape[1], 1 + x.shape[1]
    inverse = np.linalg.pinv(hessian, rcond=1e-10, hermitian=True).reshape(classes, width, classes, width)
    across = inverse.transpose(1, 0, 2, 3).reshape(width, -1)
    pull = np.zeros((classes, width))
    for rows in blocks(len(x), 1024):
        wide, prob = augmented(x[rows]), p[rows]
        variance = np.einsum("skjb,sb->skj", (wide @ across).reshape(-1, classes, classes, width), wide)
        q = np.einsum("skk->sk", variance) - 2 * np.einsum("skj,sj->sk", variance, prob)
        c = prob * (q - (prob * q).sum(axis=1, keepdims=True))
        spread = np.einsum("skk->s", variance) * rate[rows] / np.maximum(mass[rows], TINY)
        pull += 0.5 * (c * (rate[rows] / np.maximum(1.0, spread / MOST_VARIANCE))[:, None]).T @ wide
    return pull
