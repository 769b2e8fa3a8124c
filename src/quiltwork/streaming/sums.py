"""Weighted sums of tensors, a piece at a time.

    y = ( sum_i w_i x_i ) / d        added in the order given, rounded once to the dtype of y

The sum is kept in float64, or in float32 where the caller asks for it. Float32 is meant for terms and results of 16
bits, whose products with small weights it holds exactly: then the order of operations (multiply, add, divide last) is
that of mergekit's linear merge, and so are the bits; the error is 2^-24 of the terms against 2^-9 or 2^-12 for the
rounding at the end. Weights are rounded to the sum's type first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from quiltwork.errors import BrokenPromise
from quiltwork.streaming.layout import ITEM_BYTES, Dtype
from quiltwork.streaming.numbers import Array, decode, encode
from quiltwork.streaming.place import ELEMENTS

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Term(NamedTuple):
    """One term of a sum: its weight, and the pieces of its tensor."""

    weight: float
    dtype: Dtype
    pieces: Callable[[], Iterator[Buffer]]


def weighted_sum(
    terms: Sequence[Term], dtype: Dtype, *, divisor: float = 1.0, sum_in: Literal["F32", "F64"] = "F64"
) -> Iterator[Buffer]:
    """The pieces of ``sum_i w_i x_i / divisor``.

    Args:
        terms: at least one; all tensors of one size.
        dtype: of the result.
        divisor: divides the sum.
        sum_in: the type in which it is kept.

    Raises:
        BrokenPromise: the tensors are of different sizes.
    """
    total, scratch = (np.empty(ELEMENTS, "<f4" if sum_in == "F32" else "<f8") for _ in range(2))
    first, *others = [(term, term.pieces()) for term in terms]
    for piece in first[1]:
        count = len(memoryview(piece).cast("B")) // ITEM_BYTES[first[0].dtype]
        total[:count] = 0
        _add(total[:count], first[0], piece, scratch)
        for term, stream in others:
            _add(total[:count], term, next(stream, b""), scratch)
        if divisor != 1:
            np.divide(total[:count], total.dtype.type(divisor), out=total[:count])
        yield encode(total[:count], dtype).data
    # to its very end, where a stream checks what it was
    if any(next(stream, None) is not None for _, stream in others):
        raise _unequal()


def _add(total: Array, term: Term, piece: Buffer, scratch: Array) -> None:
    values = decode(piece, term.dtype)
    if len(values) != len(total):
        raise _unequal()
    if term.weight != 1:
        values = np.multiply(values, total.dtype.type(term.weight), out=scratch[: len(values)], dtype=total.dtype)
    np.add(total, values, out=total)


def _unequal() -> BrokenPromise:
    mend = "Report it, with the command that led here."
    return BrokenPromise("a sum of tensors", why="they are of different sizes, and nobody refused them", mend=mend)
