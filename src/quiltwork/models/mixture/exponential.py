"""What makes one algorithm serve every family: the divergence is linear in what the first expert expects.

For densities phi(y) = exp(theta . t(y) - A + ...) the divergence of expert l from expert k at x is

    KL(phi_l || phi_k) = e_l(x) + sum_j t_jl(x) h_jk(x) + a_k(x)

where t_jl = E_l[t_j(y)] are expected statistics, e_l the negative entropy, and (h, a) depend on expert k alone:

    family        t                        h                          a                              e
    gaussian      m, m^2 + v (an output)   -m / v, 1 / 2v             1/2 (m^2 / v + log v)          -1/2 (1 + log v)
    multinomial   p_c                      -log p_c                   0                              sum p log p
    poisson       r                        -log r                     r                              r log r - r

So sums of weights and of weighted statistics over pooled experts are all that is ever asked of them: ``refit`` finds
from these the experts that minimise the total divergence. Per output for Gaussian experts, with sums D = sum_l P_l and
T = sum_l P_l t_l at each x,

    b = (X' D X)^-1 X' T_1      v = sum_x [ T_2 - 2 (x'b) T_1 + (x'b)^2 D ] / sum_x D

the second being the mean of v_l + (m_l - x'b)^2: the dispersion of the pooled means is part of the variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.design import Array, affine, augmented
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.experts.multinomial import MultinomialExperts
from quiltwork.models.mixture.experts.poisson import PoissonExperts
from quiltwork.models.mixture.regression import poisson_regression, softmax_regression, weighted_least_squares


def expected(experts: Experts, x: Array) -> tuple[Array, Array]:
    """What each expert expects at each x.

    Returns:
        t, float64 ``[J, n, L]``, and e, float64 ``[n, L]``.
    """
    match experts:
        case GaussianExperts():
            mean = _by_output(experts, x)
            entropy = -0.5 * (1 + np.log(experts.variances)).sum(axis=1)
            square = mean**2 + experts.variances.T[:, None, :]
            return np.concatenate([mean, square]), np.broadcast_to(entropy, mean.shape[1:])
        case MultinomialExperts():
            logs = experts.log_class_probabilities(x)
            p = np.exp(logs)
            return np.ascontiguousarray(p.transpose(2, 0, 1)), np.asarray((p * logs).sum(axis=2))
        case PoissonExperts():
            logs = experts.log_rate(x)[:, :, 0]
            rate = np.exp(logs)
            return rate[None], np.asarray(rate * logs - rate)
        case _:
            raise _unknown(experts)


def natural(experts: Experts, x: Array) -> tuple[Array, Array]:
    """What the divergence from anything to each expert is made of, at each x.

    Returns:
        h, float64 ``[J, K, n]``, and a, float64 ``[K, n]``.
    """
    match experts:
        case GaussianExperts():
            mean, variance = affine(x, experts.coefficients).T, experts.variances.T[:, :, None]
            slope = -mean / variance
            curve = np.broadcast_to(0.5 / variance, mean.shape)
            offset = 0.5 * (mean**2 / variance + np.log(variance)).sum(axis=0)
            return np.concatenate([slope, curve]), np.asarray(offset)
        case MultinomialExperts():
            h = -experts.log_class_probabilities(x).transpose(2, 1, 0)
            return np.ascontiguousarray(h), np.zeros(h.shape[1:])
        case PoissonExperts():
            logs = np.ascontiguousarray(experts.log_rate(x)[:, :, 0].T)
            return -logs[None], np.exp(logs)
        case _:
            raise _unknown(experts)


def refit(previous: Experts, x: Array, masses: Array, moments: Array) -> Experts:
    """The experts that minimise sum_x [ sum_j T_jk h_jk + D_k a_k ].

    Args:
        previous: K experts, where iterations start from.
        x: float64 ``[n, d]``.
        masses: D, float64 ``[K, n]``, not negative; each expert has some.
        moments: T, float64 ``[J, K, n]``.
    """
    match previous:
        case GaussianExperts():
            return _refit_gaussian(x, masses, moments)
        case MultinomialExperts():
            starts, targets = previous.coefficients, moments.transpose(1, 2, 0)
            pairs = zip(targets, starts, strict=True)
            return MultinomialExperts(np.stack([softmax_regression(x, t, start=b) for t, b in pairs]))
        case PoissonExperts():
            rates = moments[0] / np.maximum(masses, np.finfo(float).tiny)
            rows = zip(rates, masses, previous.coefficients[:, 0], strict=True)
            return PoissonExperts(np.stack([poisson_regression(x, t, w, start=b)[None] for t, w, b in rows]))
        case _:
            raise _unknown(previous)


def with_coefficients(experts: Experts, coefficients: Array) -> Experts:
    """The experts with other coefficients, and all else as it was."""
    return cast(Experts, replace(cast(Any, experts), coefficients=coefficients))


def joined(parts: Sequence[Experts]) -> Experts:
    """All experts of one family as one, in their order."""
    arrays = [part.parameters() for part in parts]
    whole = {name: np.concatenate([one[name] for one in arrays]) for name in arrays[0]}
    return cast(Experts, replace(cast(Any, parts[0]), **whole))


def _refit_gaussian(x: Array, masses: Array, moments: Array) -> GaussianExperts:
    outputs = len(moments) // 2
    wide = augmented(x)
    first, second = moments[:outputs], moments[outputs:]
    coefficients = []
    for k, mass in enumerate(masses):
        gram = (wide * mass[:, None]).T @ wide
        coefficients.append(weighted_least_squares(gram, wide.T @ first[:, k].T))
    b = np.stack(coefficients)
    mean = affine(x, b).T
    square = (second + mean * (mean * masses - 2 * first)).sum(axis=2)
    return GaussianExperts(b, (square / masses.sum(axis=1)).T)


def _by_output(experts: GaussianExperts, x: Array) -> Array:
    """Means, float64 ``[q, n, L]``, each output in one piece of memory."""
    return np.stack([affine(x, experts.coefficients[:, j]) for j in range(experts.coefficients.shape[1])])


def _unknown(experts: Experts) -> InvalidOption:
    return InvalidOption(
        f"experts of family {experts.family!r}",
        why="their divergence is not known as a sum of expected statistics",
        mend="Use gaussian, multinomial or poisson experts.",
    )
