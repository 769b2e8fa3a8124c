"""Hashed trigrams: three neighbouring tokens as one symbol, for texts that share their pairs of words.

As for pairs (`quiltwork.evidence.bigrams`), hashed to M cells and then a histogram like any other:

    cell(x'', x', x) = (x'' C + x' A + x B mod 2^64) >> 33, of which the lowest log2 M bits are kept

with A and B those of pairs and C a third odd constant (the second multiplier of MurmurHash3's 64-bit finaliser). The
context starts anew with a document: its first token stands after two separators, its second after one and the first
token. There are many more triples than pairs, so each is rarer, and more of them share a cell: trigrams ask for more
text of each party, or more cells.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.evidence import bigrams
from quiltwork.evidence.bigrams import CELLS, require_cells

_MULTIPLIER_BEFORE = 0xC4CEB9FE1A85EC53 - 2**64

Integers = TypeVar("Integers", NDArray[np.int64], Tensor)


def cell(before: Integers, previous: Integers, current: Integers, cells: int) -> Integers:
    """Cell of each triple; NumPy arrays and torch tensors give the same numbers.

    Args:
        before: int64 token ids, any shape: the last but one.
        previous: int64 token ids of the same shape: the last.
        current: int64 token ids of the same shape.
        cells: M, a power of two.

    >>> cell(np.array([0, 7]), np.array([5, 5]), np.array([9, 9]), 2**16).tolist()
    [49250, 19292]
    """
    return bigrams.kept(before * _MULTIPLIER_BEFORE + bigrams.mixed(previous, current), cells)


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
            run = np.concatenate(([separator, separator], ids)).astype(np.int64)
            yield cell(run[:-2], run[1:-1], ids, cells)
