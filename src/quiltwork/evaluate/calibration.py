"""Whether predicted distributions mean what they say: the probability integral transform and coverage.

For a continuous response u_i = F(y_i | x_i) is uniform if the prediction is the truth (Dawid 1984). A count has no such
u, but an interval (F(y_i - 1), F(y_i)] over which it is spread evenly (Czado, Gneiting and Held 2009, non-randomised).
Both are the same arithmetic: row i gives the part of its interval that lies in (a, b] to that bin, and the central
interval of level c covers it by the part that lies in (1/2 - c/2, 1/2 + c/2]. So every figure here is a mean over rows,
and parts scored apart can be averaged.

Classes have no order and no u; for them see ``reliability``.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammaincc, ndtr

from quiltwork.errors import InvalidOption
from quiltwork.evaluate.pooling import BINS, LEVELS
from quiltwork.models.mixture.design import Array, blocks
from quiltwork.models.mixture.experts import Experts, Response
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.experts.poisson import PoissonExperts
from quiltwork.models.mixture.mixture import Mixture


def pit(mixture: Mixture[Experts], x: Array, y: Response) -> tuple[Array, Array]:
    """The ends of each response's interval of u, output by output.

    Args:
        mixture: Gaussian experts or Poisson ones.
        x: float64 ``[n, d]``.
        y: float64 ``[n, q]``.

    Returns:
        Lower and upper ends, float64 ``[n, q]``; equal for continuous responses.

    Raises:
        InvalidOption: the experts are multinomial.
    """
    low, high = np.empty(y.shape), np.empty(y.shape)
    for rows in blocks(len(x)):
        low[rows], high[rows] = _pit_block(mixture, x[rows], y[rows])
    return low, high


def _pit_block(mixture: Mixture[Experts], x: Array, y: Response) -> tuple[Array, Array]:
    weight, mean, at = np.exp(mixture.log_gate(x)), mixture.experts.mean(x), y[:, None, :]
    match mixture.experts:
        case GaussianExperts(variances=variances):
            below = above = ndtr((at - mean) / np.sqrt(variances))
        case PoissonExperts():
            # P(Y <= y) = Q(y + 1, rate); nothing lies below a count of zero
            above = gammaincc(at + 1, mean)
            below = np.where(at > 0, gammaincc(np.maximum(at, 1.0), mean), 0.0)
        case other:
            raise InvalidOption(
                f"{other.family} experts",
                why="classes have no order, and so no distribution function",
                mend="Judge their calibration class by class.",
            )
    return np.einsum("nk,nkq->nq", weight, below), np.einsum("nk,nkq->nq", weight, above)


def share_between(low: Array, high: Array, start: float, end: float) -> Array:
    """The part of each interval ``[low, high]`` that lies between ``start`` and ``end``; a point lies in or out.

    >>> share_between(np.array([0.2, 0.0]), np.array([0.2, 0.4]), 0.1, 0.3)
    array([1. , 0.5])
    """
    width = high - low
    inside = np.minimum(high, end) - np.maximum(low, start)
    point = ((low > start) | (start <= 0)) & (low <= end)
    return np.where(width > 0, np.clip(inside, 0, None) / np.where(width > 0, width, 1.0), point)


def coverage(low: Array, high: Array) -> dict[str, float]:
    """How often central intervals hold the response, by ``coverage_LEVEL``; rightly LEVEL per cent."""
    return {f"coverage_{c}": float(share_between(low, high, 0.5 - c / 200, 0.5 + c / 200).mean()) for c in LEVELS}


def histogram(low: Array, high: Array) -> dict[str, float]:
    """The share of u in each of ten bins, by ``pit_BIN``; rightly one tenth each."""
    edges = np.linspace(0, 1, BINS + 1)
    return {f"pit_{j}": float(share_between(low, high, edges[j], edges[j + 1]).mean()) for j in range(BINS)}
