"""Bytes of a tensor as numbers, and numbers as bytes of a tensor.

numpy knows float64, float32 and float16. A bfloat16 is the upper half of a float32, so it is read by a shift, exactly,
and written by rounding the lower half away, to nearest, ties to even::

    bf16(x) = ( bits(x) + 0x7FFF + (bits(x) >> 16 & 1) ) >> 16

Numbers too large for the dtype become infinities, as in torch. Infinities and NaNs are kept: whether a tensor may hold
any is the affair of those who know what it is for. A NaN stays a NaN of its sign and becomes a quiet one.

A float64 is written as bfloat16 by way of float32, as torch does it. That rounds twice, which gives the farther of two
neighbours only where the float64 lies within 2^-25, relative to its size, of the middle between them.

>>> decode(encode(np.array([1.0, 1.00390625, 1.01171875]), "BF16"), "BF16")
array([1.      , 1.      , 1.015625], dtype=float32)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from quiltwork.streaming.layout import Dtype

if TYPE_CHECKING:
    from typing_extensions import Buffer

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
_NATIVE: Mapping[str, np.dtype[Any]] = {"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2")}
# dtype -> integer of the same width, exponent bits
_EXPONENTS: Mapping[str, tuple[str, int]] = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "BF16": ("<u2", 0x7F80),
    "F16": ("<u2", 0x7C00),
}


def decode(data: Buffer, dtype: Dtype) -> Array:
    """Numbers from little-endian bytes, exactly: float32 of bfloat16, the numpy type of the same name otherwise."""
    if dtype == "BF16":
        return (np.frombuffer(memoryview(data), "<u2").astype("<u4") << np.uint32(16)).view("<f4")
    return np.frombuffer(memoryview(data), _NATIVE[dtype])


def encode(values: Array, dtype: Dtype) -> Array:
    """Little-endian bytes of numbers, each rounded to the nearest that ``dtype`` holds, as an array of uint8.

    The array has memory of its own.

    Args:
        values: floating point; any shape is flattened in C order.
        dtype: what to write.
    """
    flat = np.ascontiguousarray(values).reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype != "BF16":
            return flat.astype(_NATIVE[dtype]).view(np.uint8)
        narrow = flat.astype("<f4", copy=False)
    return _upper_halves(narrow).view(np.uint8)


def all_finite(data: Buffer, dtype: Dtype) -> bool:
    """True if no number is a NaN or an infinity: if no number's exponent bits are all ones."""
    unsigned, exponent = _EXPONENTS[dtype]
    bits = np.frombuffer(memoryview(data), unsigned)
    return bits.size == 0 or bool((bits & bits.dtype.type(exponent)).max() < exponent)


def _upper_halves(narrow: Array) -> Array:
    bits = narrow.view("<u4")
    rounded = bits >> np.uint32(16)
    rounded &= np.uint32(1)
    rounded += np.uint32(0x7FFF)
    rounded += bits
    rounded >>= np.uint32(16)
    halves = rounded.astype("<u2")
    # the largest NaNs would run over into zeros, and the smallest would become infinities
    nan = np.isnan(narrow)
    if nan.any():
        halves[nan] = (bits[nan] >> np.uint32(16)).astype("<u2") | np.uint16(0x0040)
    return halves
