"""Hashed bigrams: pairs of neighbouring tokens as symbols of one small alphabet.

A histogram over pairs of V tokens has V^2 cells; hashed to M cells it is a histogram like any other, and everything
said of token histograms (smoothing, release, posterior) holds for it with M in the place of V:

    cell(x', x) = (x' A + x B mod 2^64) >> 33, of which the lowest log2 M bits are kept

with two odd 64-bit constants A, B (the multipliers of Fibonacci hashing and of xxHash). Pairs that share a cell blur
each other, alike for all parties. Which party wrote a text shows after fewer bigrams than tokens, and program text
with English comments, say, is told from English; under differential privacy the order turns, since the same noise
falls on many more and emptier cells (benchmarks/text.py measures both).

The first token of a document is paired with the separator that stands before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.errors import InvalidOption

CELLS = 2**16
"""Cells of a bigram histogram, unless stated: half a megabyte of float64 counts."""

_MULTIPLIER_PREVIOUS = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLIER_CURRENT = 0xC2B2AE3D27D4EB4F - 2**64
_SHIFT = 33

Integers = TypeVar("Integers", NDArray[np.int64], Tensor)


def require_cells(cells: int) -> int:
    """``cells`` if it is a power of two from 2 to 2^24.

    Raises:
        InvalidOption: it is not.
    """
    if not 2 <= cells <= 2**24 or cells & (cells - 1):
        raise InvalidOption(
            f"cells={cells}", why="a hash keeps whole bits of a number", mend="Choose a power of two from 2 to 2^24."
        )
    return cells


def cell(previous: Integers, current: Integers, cells: int) -> Integers:
    """Cell of each pair; NumPy arrays and torch tensors give the same numbers.

    Args:
        previous: int64 token ids, any shape.
        current: int64 token ids of the same shape.
        cells: M, a power of two.

    >>> cell(np.array([0, 5]), np.array([5, 0]), 2**16).tolist()
    [45976, 45135]
    """
    return kept(mixed(previous, current), cells)


def mixed(previous: Integers, current: Integers) -> Integers:
    """x' A + x B mod 2^64, as int64: products and sums wrap around in both libraries."""
    return previous * _MULTIPLIER_PREVIOUS + current * _MULTIPLIER_CURRENT


def kept(number: Integers, cells: int) -> Integers:
    """The bits of a hashed number that name its cell; after an arithmetic shift the low 30 are those of a logical."""
    return (number >> _SHIFT) & (cells - 1)


def document_cells(
    documents: Iterable[Sequence[int] | NDArray[np.int64]], separator: int, cells: int = CELLS
) -> Iterator[NDArray[np.int64]]:
    """The cells of each document, as many as it has tokens.

    Args:
        documents: token ids without special tokens.
        separator: the token that stands before a document.
        cells: M, a power of two.
    """
    require_cells(cells)
    for document in documents:
        ids = np.asarray(document, dtype=np.int64)
        if ids.size:
            yield cell(np.concatenate(([separator], ids[:-1])).astype(np.int64), ids, cells)
