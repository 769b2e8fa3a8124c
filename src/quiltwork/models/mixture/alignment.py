"""Alignment: which expert of one mixture is which expert of another, when labels mean nothing.

For a permutation s the log-sum inequality bounds the divergence of the two densities at x by matched parts,

    KL(f || g) <= sum_k pi_k(x) [ log(pi_k(x) / pi'_s(k)(x)) + KL(phi_k || phi'_s(k)) ],

a sum over matched pairs. ``match`` minimises the mean over x of this bound and of its reverse: one assignment problem
(Hungarian method), which cares about an expert where its gate is open and tells equal experts apart by their gates.

>>> from quiltwork.models.mixture.experts.gaussian import GaussianExperts
>>> from quiltwork.models.mixture.gates import SoftmaxGate
>>> def lines(slopes):
...     count = len(slopes)
...     experts = GaussianExperts(np.array([[[0.0, slope]] for slope in slopes]), np.ones((count, 1)))
...     return Mixture(SoftmaxGate(np.zeros((count, 2))), experts)
>>> match(lines([1.0, 5.0, -3.0]), lines([-3.1, 1.1, 4.9]), np.linspace(-1, 1, 9)[:, None])
array([1, 2, 0])
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.design import Array, blocks
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.mixture import Mixture


def match(one: Mixture[Experts], other: Mixture[Experts], x: Array) -> NDArray[np.intp]:
    """The experts of ``other`` in the order of ``one``.

    Args:
        one: K experts.
        other: K experts of the same family, features and outputs.
        x: float64 ``[n, d]``, where they are compared.

    Returns:
        int ``[K]``: expert ``order[k]`` of ``other`` is the counterpart of expert k of ``one``, so that
        ``other.experts.select(order)`` and its gate's ``select(order)`` line up with ``one``.

    Raises:
        InvalidOption: the numbers of experts differ, or x has no rows.
    """
    if one.n_experts != other.n_experts:
        raise InvalidOption(
            "mixtures to match",
            why=f"they have {one.n_experts} and {other.n_experts} experts, and a permutation pairs all with all",
            mend="Fit them with the same number of experts, or compose them by reduction, which needs no pairs.",
        )
    if len(x) == 0:
        raise InvalidOption("x", why="it has no rows to compare the experts at", mend="Give covariates.")
    return np.asarray(linear_sum_assignment(pair_costs(one, other, x))[1], dtype=np.intp)


def pair_costs(one: Mixture[Experts], other: Mixture[Experts], x: Array) -> Array:
    """Mean of a pair's terms in the bound and its reverse, in nats a row: float64 ``[K, K']``."""
    total = np.zeros((one.n_experts, other.n_experts))
    for rows in blocks(len(x)):
        total += _bound(one, other, x[rows]) + _bound(other, one, x[rows]).T
    return total / len(x)


def _bound(f: Mixture[Experts], g: Mixture[Experts], x: Array) -> Array:
    """Sum over rows of pi_k [log pi_k - log pi'_l + KL(phi_k || phi'_l)]: ``[K, L]``."""
    own, its = f.log_gate(x), g.log_gate(x)
    cost = f.experts.divergence(g.experts, x) + own[:, :, None] - its[:, None, :]
    return np.asarray(np.einsum("nk,nkl->kl", np.exp(own), cost))
