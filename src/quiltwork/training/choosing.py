"""Public documents that stand in for a party's: the most relevant ones, or relevant ones that differ from each other.

Given how relevant each of N public documents is to a party (a positive number q_i) and what it is like (a vector x_i of
length one), two choices of k:

    best      the k largest q_i
    diverse   a set Y of k with a large det(L_Y),   L = diag(q) X X' diag(q)

det(L_Y) = prod_{i in Y} q_i^2 * det(X_Y X_Y'): relevance times the squared volume that the chosen vectors span. It is
the most likely set of size k under a determinantal point process (Kulesza and Taskar, arXiv 1207.6083). The best set
is hard to find; ``greedy_map`` adds one document at a time, the one that raises log det the most, by Chen, Zhang and
Zhou's update (arXiv 1709.05135, algorithm 1): with C the Cholesky factor of L_Y and d_i^2 the squared residual of i,

    e_i = (L_ji - c_j . c_i) / d_j,     c_i <- [c_i, e_i],     d_i^2 <- d_i^2 - e_i^2            for the chosen j

in O(k^2 N) and k N numbers. Choosing proxies so follows MetaMoE (arXiv 2605.14289) and the code its authors published:
a shortlist by relevance, then greedy MAP on it. There x_i is the mean last hidden state of the fine-tuned classifier;
here it counts the document's hashed bigrams, which needs no model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption
from quiltwork.evidence.bigrams import document_cells

Floats = NDArray[np.float64]
Document = Sequence[int]

DIMENSIONS = 4096
"""Hash cells of a document's vector."""

SHORTLIST = 4
"""Documents on the shortlist for each one that is chosen, as in MetaMoE's code (2 000 for 500)."""

_EXHAUSTED = 1e-10
"""A residual below this share of the largest diagonal entry is rounding: the chosen span all that is there."""


def best(relevance: Floats, count: int) -> list[int]:
    """Indices of the ``count`` largest numbers, the largest first; equals in their order. Fewer if there are fewer.

    >>> best(np.array([0.1, 0.7, 0.7, 0.3]), 3)
    [1, 2, 3]
    """
    _require_count(count)
    return [int(i) for i in np.argsort(-relevance, kind="stable")[:count]]


def greedy_map(kernel: Floats, count: int) -> list[int]:
    """A set with a large determinant, in the order in which its members were chosen.

    Args:
        kernel: ``[N, N]``, symmetric and positive semidefinite.
        count: how many to choose. Where the kernel's rank is smaller, that many are chosen: no further one adds volume.

    >>> greedy_map(np.array([[4.0, 3.9, 0.0], [3.9, 3.9, 0.0], [0.0, 0.0, 1.0]]), 2)
    [0, 2]
    """
    _require_count(count)
    residual = np.array(np.diag(kernel), dtype=np.float64)
    factor = np.zeros((0, len(residual)))
    least = _EXHAUSTED * float(residual.max(initial=0.0))
    chosen: list[int] = []
    while len(chosen) < min(count, len(residual)):
        last = int(np.argmax(residual))
        if residual[last] <= least:
            break
        row = (kernel[last] - factor[:, last] @ factor) / math.sqrt(residual[last])
        factor = np.vstack([factor, row])
        residual -= row**2
        residual[[*chosen, last]] = -math.inf
        chosen.append(last)
    return chosen


def diverse(relevance: Floats, vectors: Floats, count: int) -> list[int]:
    """Relevant documents that differ from each other, the first chosen first.

    Args:
        relevance: positive, ``[N]``.
        vectors: ``[N, D]``, each of length one.
        count: how many to choose.

    Raises:
        InvalidOption: a relevance is not positive and finite.
    """
    if not (np.isfinite(relevance).all() and (relevance > 0).all()):
        raise InvalidOption(
            "a relevance that is not positive", why="it scales a document's vector", mend="Give exp(score), say."
        )
    listed = np.array(best(relevance, SHORTLIST * count), dtype=np.int64)
    scaled = relevance[listed, None] * vectors[listed]
    return [int(listed[i]) for i in greedy_map(scaled @ scaled.T, count)]


def bigram_vectors(documents: Sequence[Document], separator: int) -> Floats:
    """How often each of `DIMENSIONS` hashed bigrams occurs in each document, scaled to length one; float64.

    An empty document gets the zero vector, and is never chosen for diversity.
    """
    vectors = np.zeros((len(documents), DIMENSIONS))
    for vector, document in zip(vectors, documents, strict=True):
        for cells in document_cells([document], separator, DIMENSIONS):  # none of an empty document
            np.add.at(vector, cells, 1.0)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1.0))


def document_number(text: str) -> float:
    """What a document is called where names must be numbers: the first 53 bits of its SHA-256, exact in float64."""
    return float(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") >> 3)


def _require_count(count: int) -> None:
    if count < 1:
        raise InvalidOption(f"{count} documents", why="nothing would be chosen", mend="Choose 1 or more.")
