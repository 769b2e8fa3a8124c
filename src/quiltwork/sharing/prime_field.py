"""The integers modulo p = 2^61 - 1, on arrays: where sums and products of fixed-point numbers are shared.

A product of two residues is put together of halves, since 64 bits do not hold it: with a = a1 2^31 + a0, b likewise,

    a b = a1 b1 2^62 + (a1 b0 + a0 b1) 2^31 + a0 b0,        2^61 = 1 (mod p)

Integers up to p // 2 in size, of either sign, are residues and come back from them.

>>> int(times(np.uint64(PRIME - 1), np.uint64(PRIME - 2))), centred(residues(np.array([-5, 7]))).tolist()
(2, [-5, 7])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from quiltwork.sharing.shamir import Draw

PRIME = 2**61 - 1
"""A Mersenne prime, so that reduction is a shift and a sum."""

Residues: TypeAlias = NDArray[np.uint64]

_P, _BITS = np.uint64(PRIME), np.uint64(61)
_HALF, _LOW_HALF = np.uint64(31), np.uint64(2**31 - 1)
_CARRY, _LOW_CARRY = np.uint64(30), np.uint64(2**30 - 1)


def reduced(value: Residues | np.uint64) -> Residues:
    """Any uint64 modulo p."""
    folded = np.asarray((value & _P) + (value >> _BITS))
    return np.where(folded >= _P, folded - _P, folded)


def plus(left: Residues | np.uint64, right: Residues | np.uint64) -> Residues:
    """The sum of residues, elementwise."""
    return reduced(np.asarray(left) + np.asarray(right))


def times(left: Residues | np.uint64, right: Residues | np.uint64) -> Residues:
    """The product of residues, elementwise."""
    a, b = np.asarray(left), np.asarray(right)
    a1, a0, b1, b0 = a >> _HALF, a & _LOW_HALF, b >> _HALF, b & _LOW_HALF
    middle = a1 * b0 + a0 * b1
    # 2^62 = 2; the middle's upper part wraps round at 2^61. All five terms stay below 2^64 together
    whole = (a1 * b1 << np.uint64(1)) + (middle >> _CARRY) + ((middle & _LOW_CARRY) << _HALF) + a0 * b0
    return reduced(whole)


def matmul(left: Residues, right: Residues) -> Residues:
    """The product ``[b, d] @ [d, k]`` of residues."""
    total = np.zeros((left.shape[0], right.shape[1]), dtype=np.uint64)
    for column, row in zip(left.T, right, strict=True):
        total = plus(total, times(column[:, None], row[None, :]))
    return total


def uniform(shape: tuple[int, ...], draw: Draw) -> Residues:
    """Residues drawn uniformly, by rejection; ``draw(n)`` gives n uniform bytes."""
    found = _candidates(int(np.prod(shape)), draw)
    while (wrong := found == _P).any():
        found[wrong] = _candidates(int(wrong.sum()), draw)
    return found.reshape(shape)


def _candidates(number: int, draw: Draw) -> Residues:
    return np.frombuffer(draw(8 * number), dtype="<u8").astype(np.uint64) & _P


def residues(integers: NDArray[np.int64]) -> Residues:
    """The residues of integers of at most ``p // 2`` in size."""
    return np.where(integers < 0, integers + PRIME, integers).astype(np.uint64)


def centred(values: Residues) -> NDArray[np.int64]:
    """The integers of at most ``p // 2`` in size that have these residues."""
    signed = values.astype(np.int64)
    return np.where(signed > PRIME // 2, signed - PRIME, signed)


def lagrange(points: Sequence[int], at: int = 0) -> tuple[int, ...]:
    """Weights that give a polynomial's value at ``at`` from its values at as many points as it has coefficients."""
    weights = []
    for x in points:
        above = below = 1
        for y in points:
            if y != x:
                above, below = above * (at - y) % PRIME, below * (x - y) % PRIME
        weights.append(above * pow(below, -1, PRIME) % PRIME)
    return tuple(weights)
