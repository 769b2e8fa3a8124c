"""Quantiles of a mixture's predictive distribution.

The quantile of a mixture lies between the least and the greatest of its experts' quantiles at the same level, because
its distribution function F(y | x) = sum_k pi_k(x) F_k(y | x) lies between theirs. Bisection from there is safe whatever
the shape of F; Poisson mixtures bisect over whole numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, pdtr
from scipy.stats import poisson

from quiltwork.models.mixture.design import Array, blocks
from quiltwork.models.mixture.mixture import Mixture

HALVINGS = 60
"""Of a bracket; a double has 53 bits."""


def quantiles(mixture: Mixture[Any], x: NDArray[Any], levels: Array) -> Array:
    """Quantiles of every output at every row.

    Args:
        mixture: with Gaussian or Poisson experts.
        x: ``[n, d]``.
        levels: float64 ``[L]``, strictly between 0 and 1.

    Returns:
        float64 ``[n, q, L]``; the smallest y with F(y | x) at least the level.
    """
    find = _poisson if mixture.experts.family == "poisson" else _gaussian
    values = np.empty((len(x), mixture.experts.coefficients.shape[1], len(levels)))
    for rows in blocks(len(x)):
        values[rows] = find(mixture, np.asarray(x[rows], dtype=np.float64), levels)
    return values


def _gaussian(mixture: Mixture[Any], x: Array, levels: Array) -> Array:
    weight = np.exp(mixture.log_gate(x))[:, :, None, None]
    mean, deviation = mixture.experts.mean(x)[..., None], np.sqrt(mixture.experts.variances)[..., None]
    ends = mean + deviation * ndtri(levels)

    def distribution(y: Array) -> Array:
        return np.asarray((weight * ndtr((y[:, None] - mean) / deviation)).sum(axis=1))

    low, high = ends.min(axis=1), ends.max(axis=1)
    for _ in range(HALVINGS):
        middle = low + (high - low) / 2
        below = distribution(middle) < levels
        low, high = np.where(below, middle, low), np.where(below, high, middle)
        if not ((low < high) & (np.nextafter(low, high) < high)).any():
            break
    return np.asarray(high)


def _poisson(mixture: Mixture[Any], x: Array, levels: Array) -> Array:
    weight = np.exp(mixture.log_gate(x))[:, :, None, None]
    rate = mixture.experts.mean(x)[..., None]
    ends = poisson.ppf(levels, rate)

    def distribution(y: Array) -> Array:
        return np.asarray((weight * pdtr(y[:, None], rate)).sum(axis=1))

    return _whole(distribution, ends.min(axis=1) - 1, ends.max(axis=1), levels)


def _whole(distribution: Callable[[Array], Array], low: Array, high: Array, levels: Array) -> Array:
    """The smallest whole number with F at least the level; F(low) < level <= F(high) but for rounding."""
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        below = distribution(np.maximum(middle, 0.0)) < levels
        open_ = high - low > 1
        low, high = np.where(below & open_, middle, low), np.where(below | ~open_, high, middle)
    return high
