"""Which documents are near copies of others, told by their 13-word shingles.

Let shingles(d) be the distinct runs of 13 words of d. A document is *near* a set X of shingles if

    |shingles(d) and X|  >  |shingles(d)| / 2

Source: Broder, On the resemblance and containment of documents, 1997 (containment); 13 words as in the
overlap test of Brown et al., arXiv 2005.14165, appendix C. Shingles are 64-bit hashes: a false match is a
collision.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SHINGLE = 13
"""Words in a shingle."""

Shingles = NDArray[np.uint64]
Pool = dict[str, Shingles]
"""Documents of one corpus in their order, each with its shingles."""


def shared(pools: Iterable[Pool]) -> Shingles:
    """The shingles that occur in at least two documents, sorted."""
    every = [found for pool in pools for found in pool.values()]
    values, counts = np.unique(np.concatenate(every or [np.empty(0, np.uint64)]), return_counts=True)
    return values[counts > 1]


def near(found: Shingles, among: Shingles) -> bool:
    """Whether more than half of ``found`` is in ``among`` (each without repetitions)."""
    return bool(2 * np.isin(found, among, assume_unique=True).sum() > len(found))


Place = tuple[str, str]
"""A corpus and a split."""


@dataclass
class Keeper:
    """Where each shingle was kept (``None``: in several places)."""

    places: dict[int, Place | None] = field(default_factory=dict)

    def add(self, documents: Iterable[Shingles], place: Place) -> None:
        """Remember the shingles of documents that are kept in ``place``."""
        for found in documents:
            for shingle in found.tolist():
                self.places[shingle] = place if self.places.get(shingle, place) == place else None

    def apart(self, pool: Pool, place: Place) -> Iterator[str]:
        """The documents that are not near what is kept in other places."""
        for text, found in pool.items():
            elsewhere = sum(self.places.get(shingle, place) != place for shingle in found.tolist())
            if 2 * elsewhere <= len(found):
                yield text


def shingles(text: str) -> Shingles:
    """Hashes of the distinct runs of 13 words of a text, sorted; of all its words if they are fewer.

    Each word w has a = CRC-32(w); a run a_1..a_13 hashes to sum_j a_j M^(13-j) mod 2^64, M odd.

    >>> len(shingles("to be or not to be"))
    1
    >>> len(shingles("a rose is " * 30))
    3
    """
    words = np.array([zlib.crc32(word.encode()) for word in text.split()], dtype=np.uint64)
    width = max(1, min(SHINGLE, len(words)))
    total = np.zeros(max(0, len(words) - width + 1), dtype=np.uint64)
    for offset in range(width):
        total = total * _MULTIPLIER + words[offset : offset + len(total)]
    return np.unique(total)


_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, as in Fibonacci hashing
