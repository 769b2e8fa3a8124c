"""The transportation divergence between two mixtures of experts (Chamroukhi and Pham, arXiv 2312.09877).

At a covariate x a mixture is a discrete measure on densities: weight pi_k(x) on phi_k(. | x). Moving the weights of f
onto those of g at the cost KL(phi_l || phi_k) takes, on average over x,

    T(f, g) = E_x min { sum_lk P_lk KL(phi_l || phi_k) : P >= 0, P 1 = pi^f(x), P' 1 = pi^g(x) }     marginals="both"

a linear programme for each row. Without the second marginal each weight goes to its nearest expert,

    R(f, g) = E_x sum_l pi^f_l(x) min_k KL(phi_l || phi_k),                                     marginals="relaxed"

which is what a reduction minimises, and R <= T. Neither is symmetric.

R does not see g's gate. The masses D_k(x) that its plan brings to expert k do, and by the log-sum inequality

    KL(f(. | x) || g(. | x)) <= KL(D(x) || pi^g(x)) + sum_l pi^f_l(x) min_k KL(phi_l || phi_k),

``divergence_bound``: nats per row by which predicting with g instead of f costs at most.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array

from quiltwork.errors import BrokenPromise, InvalidOption
from quiltwork.models.mixture.design import Array, blocks
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.mixture import Mixture

Marginals = Literal["both", "relaxed"]

_LP_ROWS = 256
"""Rows in one linear programme; larger ones gain nothing."""


def transport_divergence(f: Mixture[Experts], g: Mixture[Experts], x: Array, marginals: Marginals = "both") -> float:
    """T(f, g) or R(f, g), mean over the rows of ``x``, in nats.

    Args:
        f: L experts; the numbers may differ.
        g: K experts of the same family, features and outputs.
        x: float64 ``[n, d]``, at least one row.
        marginals: ``both`` for the exact transport, ``relaxed`` for its lower bound in closed form.

    Raises:
        InvalidOption: x has no rows, or marginals is neither.
    """
    if len(x) == 0:
        raise InvalidOption("x", why="it has no rows to compare the mixtures at", mend="Give covariates.")
    if marginals not in ("both", "relaxed"):
        raise InvalidOption(f"marginals={marginals!r}", why="it is 'both' or 'relaxed'", mend="Choose one of the two.")
    total = 0.0
    for rows in blocks(len(x), _LP_ROWS):
        cost, own = f.experts.divergence(g.experts, x[rows]), np.exp(f.log_gate(x[rows]))
        if marginals == "relaxed":
            total += float((own * cost.min(axis=2)).sum())
        else:
            total += _transport(cost, own, np.exp(g.log_gate(x[rows])))
    return total / len(x)


def divergence_bound(f: Mixture[Experts], g: Mixture[Experts], x: Array) -> Array:
    """The bound on KL(f || g) at each row, in nats: float64 ``[n]``."""
    values = np.empty(len(x))
    for rows in blocks(len(x), _LP_ROWS):
        cost, own = f.experts.divergence(g.experts, x[rows]), np.exp(f.log_gate(x[rows]))
        nearest = cost.argmin(axis=2)
        mass = np.stack([(own * (nearest == k)).sum(axis=1) for k in range(g.n_experts)], axis=1)
        gates = np.where(mass > 0, mass * (np.log(np.maximum(mass, 1e-300)) - g.log_gate(x[rows])), 0.0)
        values[rows] = (own * cost.min(axis=2)).sum(axis=1) + gates.sum(axis=1)
    return values


def _transport(cost: Array, own: Array, its: Array) -> float:
    """Sum over rows of the optimal cost: costs ``[n, L, K]``, weights ``[n, L]`` and ``[n, K]``.

    The rows are independent blocks of one sparse programme. Of each row's L + K equations one follows from the
    others and is left out, so that rounding in the weights cannot make them contradict each other.
    """
    n, sources, sinks = cost.shape
    row, source, sink = (index.ravel() for index in np.indices(cost.shape))
    leaves, arrives = row * sources + source, n * sources + row * (sinks - 1) + sink
    kept = sink < sinks - 1
    variable = np.arange(cost.size)
    places = (np.concatenate([leaves, arrives[kept]]), np.concatenate([variable, variable[kept]]))
    equations = coo_array((np.ones(len(places[0])), places), shape=(n * (sources + sinks - 1), cost.size)).tocsr()
    amounts = np.concatenate([own.ravel(), its[:, :-1].ravel()])
    # with the default tolerance of 1e-7 the presolve takes weights of that size for contradictions
    exact = {"primal_feasibility_tolerance": 1e-10}
    result = linprog(cost.ravel(), A_eq=equations, b_eq=amounts, bounds=(0, None), method="highs", options=exact)
    if result.status != 0:
        raise BrokenPromise(
            "optimal transport between gates",
            why=f"every such problem has a solution, and the solver found none: {result.message}",
            mend="Check the parameters for values that are not finite; else report it.",
        )
    return float(result.fun)
