"""Rows in standard units, read block by block, and the sums over rows that every fit is made of.

A column j becomes z_j = (x_j - centre_j) / scale_j with its weighted mean and standard deviation, so that one ridge and
one tolerance mean the same for every column; a column that never varies becomes zeros. A block lies transposed,
``[p, B]`` with a first row of ones, because sums over a few experts run fastest along rows.

All second-order statistics (Gram matrices of experts, curvature of gates) are weighted sums of the same products
z_a z_b. A block forms the p (p + 1) / 2 distinct ones once and one matrix product then serves every set of weights::

    S[a] = sum_i w_ai z_i z_i'          for all a at once

Nothing of the size rows x products is held, unless it is small.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.design import Array

PRODUCTS_AT_ONCE = 1 << 18
"""Distinct products formed in one block (2 MiB of float64), which bounds its rows."""

KEPT_PRODUCTS = 5 << 19
"""Tables with at most so many products (20 MiB) keep them between passes."""

WIDEST_PACKED = 64
"""With more columns than this, one matrix product a set of weights is faster than packed products."""

FEWEST_ROWS = 256

KEPT_ROWS = 4096
"""Rows in a block that is kept: more than in one that is formed anew, for there are fewer calls to make."""


@dataclass(frozen=True, eq=False)
class Block:
    """Some consecutive rows in standard units.

    Attributes:
        rows: which rows of the table.
        z: float64 ``[p, B]``, first row ones.
        products: float64 ``[p (p + 1) / 2, B]``, the products z_a z_b with a <= b; None for wide tables.
    """

    rows: slice
    z: Array
    products: Array | None

    def first(self, weights: Array) -> Array:
        """sum_i w_ai z_i for weights ``[A, B]``: float64 ``[A, p]``."""
        return np.asarray(weights @ self.z.T, dtype=np.float64)

    def second(self, weights: Array) -> Array:
        """sum_i w_ai z_i z_i' for weights ``[A, B]``, in the form that `symmetric` unfolds."""
        if self.products is not None:
            return np.asarray(weights @ self.products.T, dtype=np.float64)
        return np.stack([(self.z * w) @ self.z.T for w in weights]) if len(weights) else _no_sums(len(self.z))


def _no_sums(p: int) -> Array:
    return np.empty((0, p, p))


def symmetric(sums: Array, p: int) -> Array:
    """Sums of `Block.second` as matrices: float64 ``[A, p, p]``."""
    if sums.ndim == 3:
        return sums
    return np.asarray(np.take(sums, _places(p), axis=1).reshape(len(sums), p, p), dtype=np.float64)


@cache
def _places(p: int) -> NDArray[np.intp]:
    """Where each entry of a flat p x p matrix stands among the packed products."""
    places = np.empty((p, p), dtype=np.intp)
    above = np.triu_indices(p)
    places[above] = np.arange(len(above[0]))
    places[above[1], above[0]] = places[above]
    return places.ravel()


@dataclass(frozen=True, eq=False)
class Standard:
    """A table's rows in standard units.

    Attributes:
        x: ``[n, d]`` of any float type, an array or a memory map; never copied as a whole unless it is small.
        weights: float64 ``[n]``.
        centre: float64 ``[d]``.
        scale: float64 ``[d]``, positive.
        kept: the blocks themselves, where the table is small enough to keep them.
    """

    x: NDArray[Any]
    weights: Array
    centre: Array
    scale: Array
    kept: tuple[Block, ...] | None = None

    @classmethod
    def of(cls, x: NDArray[Any], weights: Array, *, standardise: bool = True) -> Standard:
        """Rows in units of their own weighted mean and standard deviation.

        Args:
            x: ``[n, d]``.
            weights: float64 ``[n]``, not all zero.
            standardise: False leaves the columns as they are.
        """
        d = x.shape[1]
        centre, scale = weighted_moments(x, weights) if standardise else (np.zeros(d), np.ones(d))
        rows = cls(x, weights, centre, scale)
        if len(x) * rows.width <= KEPT_PRODUCTS:
            return cls(x, weights, centre, scale, tuple(rows._read(KEPT_ROWS, keep=True)))
        return rows

    @property
    def p(self) -> int:
        """Numbers in a row: columns and the intercept."""
        return 1 + int(self.x.shape[1])

    @property
    def width(self) -> int:
        """Distinct products in a row."""
        return self.p * (self.p + 1) // 2

    def no_second(self, count: int) -> Array:
        """Zeros to which `Block.second` of ``count`` weights is added."""
        return np.zeros((count, self.width) if self.p <= WIDEST_PACKED else (count, self.p, self.p))

    def blocks(self) -> Iterator[Block]:
        """All rows, in order. Use a block before asking for the next, which may be written over it."""
        return iter(self.kept) if self.kept is not None else self._read(self.block_rows)

    @property
    def block_rows(self) -> int:
        """Rows in a block that is formed anew in every pass."""
        return max(FEWEST_ROWS, PRODUCTS_AT_ONCE // self.width)

    def _read(self, size: int, *, keep: bool = False) -> Iterator[Block]:
        """Blocks of ``size`` rows; unless they are kept, each is written over the one before."""
        size = min(size, len(self.x))
        space = np.empty(0) if keep else np.empty((self.p + self._packed) * size)
        for start in range(0, len(self.x), size):
            rows = slice(start, min(start + size, len(self.x)))
            count = rows.stop - rows.start
            room = np.empty((self.p + self._packed) * count) if keep else space[: (self.p + self._packed) * count]
            z, products = np.split(room.reshape(-1, count), [self.p])
            self._fill(self.x[rows], z)
            _multiply(z, products)
            yield Block(rows, z, products if self._packed else None)

    @property
    def _packed(self) -> int:
        """Products that a block holds for every row."""
        return self.width if self.p <= WIDEST_PACKED else 0

    def _fill(self, x: NDArray[Any], z: Array) -> None:
        z[0] = 1.0
        np.subtract(x.T, self.centre[:, None], out=z[1:])
        z[1:] /= self.scale[:, None]


def _multiply(z: Array, products: Array) -> None:
    """Fill in the products z_a z_b, if there is room for any."""
    p, start = len(z), 0
    for a in range(p if len(products) else 0):
        np.multiply(z[a], z[a:], out=products[start : start + p - a])
        start += p - a


def weighted_moments(x: NDArray[Any], weights: Array, size: int = 1 << 16) -> tuple[Array, Array]:
    """Weighted mean and standard deviation of each column, in one pass; a column that never varies has deviation 1.

    Blocks are merged as Chan, Golub and LeVeque (1979) do. Rows of weight zero count nothing.

    Raises:
        InvalidOption: a column's numbers are so large that their squares overflow.
    """
    mass, mean, square = 0.0, np.zeros(x.shape[1]), np.zeros(x.shape[1])
    low, high = np.full(x.shape[1], np.inf), np.full(x.shape[1], -np.inf)
    for start in range(0, len(x), size):
        w = weights[start : start + size]
        block = np.asarray(x[start : start + size], dtype=np.float64)[w > 0]
        if not len(block):
            continue
        w = w[w > 0]
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
        part = w.sum()
        with np.errstate(over="ignore", invalid="ignore"):
            step = w @ block / part - mean
            block -= mean + step
            square += w @ block**2 + step**2 * (mass * part / (mass + part))
        mean = mean + step * (part / (mass + part))
        mass += part
    deviation = np.sqrt(square / mass)
    if not np.isfinite(deviation).all():
        raise InvalidOption(
            f"column {int(np.argmin(np.isfinite(deviation)))}",
            why=f"its numbers reach {np.abs([low, high]).max():.3g}, and their squares overflow",
            mend="Give it in a larger unit.",
        )
    constant = (high - low) <= 1e-13 * np.maximum(np.abs(low), np.abs(high))
    return np.where(constant, low, mean), np.where(constant | (deviation == 0), 1.0, deviation)
