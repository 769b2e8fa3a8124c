"""Affine maps of covariates: the one convention on which gates and experts agree.

A coefficient array ends in an axis of p = d + 1 numbers, the intercept first:

    (X B)_{i, ...} = B[..., 0] + sum_j X[i, j] B[..., 1 + j]

The intercept column is never stored beside X, so that covariates of any size are read in place.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BLOCK_ROWS = 4096
"""Rows worked on at a time: with tens of columns a block stays in a processor's second cache."""


def affine(x: Array, coefficients: Array) -> Array:
    """The affine map of every row of ``x``.

    Args:
        x: float ``[n, d]``.
        coefficients: float64 ``[..., 1 + d]``.

    Returns:
        float64 ``[n, ...]``.

    >>> affine(np.array([[2.0], [3.0]]), np.array([[1.0, 10.0], [0.0, -1.0]]))
    array([[21., -2.],
           [31., -3.]])
    """
    flat = coefficients.reshape(-1, coefficients.shape[-1])
    values = x @ flat[:, 1:].T
    values += flat[:, 0]
    return np.asarray(values.reshape(len(x), *coefficients.shape[:-1]), dtype=np.float64)


def augmented(x: Array) -> Array:
    """``x`` with a leading column of ones: float64 ``[n, 1 + d]``. For blocks, not for whole tables."""
    wide = np.empty((len(x), 1 + x.shape[1]))
    wide[:, 0] = 1.0
    wide[:, 1:] = x
    return wide


def blocks(rows: int, size: int = BLOCK_ROWS) -> Iterator[slice]:
    """Slices that cover ``range(rows)`` in order."""
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def in_raw_units(coefficients: Array, centre: Array, scale: Array) -> Array:
    """Coefficients for x, from those for z = (x - centre) / scale.

    >>> in_raw_units(np.array([1.0, 6.0]), np.array([5.0]), np.array([2.0]))
    array([-14.,   3.])
    """
    raw = np.empty_like(coefficients)
    raw[..., 1:] = coefficients[..., 1:] / scale
    raw[..., 0] = coefficients[..., 0] - raw[..., 1:] @ centre
    return raw


def in_standard_units(coefficients: Array, centre: Array, scale: Array) -> Array:
    """Coefficients for z = (x - centre) / scale, from those for x; the inverse of `in_raw_units`."""
    standard = np.empty_like(coefficients)
    standard[..., 1:] = coefficients[..., 1:] * scale
    standard[..., 0] = coefficients[..., 0] + coefficients[..., 1:] @ centre
    return standard
