"""The field of 256 elements, on arrays of bytes: GF(2)[z] / (z^8 + z^4 + z^3 + z + 1), the one of AES (FIPS 197).

    a + b = a XOR b = a - b        a * b: shift and add, reduced by 0x11b        1 / a = a^254

There are no tables and no branches on values, so that time and memory access do not depend on secrets (as far as NumPy
keeps to that; it is a courtesy, not a claim about hardware).

>>> times(np.uint8(0x57), np.uint8(0x83)), inverse(np.uint8(0x53))
(np.uint8(193), np.uint8(202))
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Bytes: TypeAlias = NDArray[np.uint8]

_REDUCTION = np.uint8(0x1B)
_ONE = np.uint8(1)


def times(left: Bytes | np.uint8, right: Bytes | np.uint8) -> Bytes:
    """The product, elementwise; uint8 arrays of shapes that broadcast."""
    a, b = np.broadcast_arrays(np.asarray(left, np.uint8), np.asarray(right, np.uint8))
    product = np.zeros_like(a)
    for _ in range(8):
        product = product ^ a * (b & _ONE)
        a = (a << _ONE) ^ (a >> np.uint8(7)) * _REDUCTION
        b = b >> _ONE
    return product


def inverse(value: Bytes | np.uint8) -> Bytes:
    """``1 / value``, elementwise; that of 0 is 0."""
    power = square = times(value, value)
    for _ in range(6):
        square = times(square, square)
        power = times(power, square)
    return power
