"""Rows into groups: k-means over tables that may not fit in memory.

    centres  ->  nearest centre of every row  ->  mean of every group  ->  centres

Each round lowers the sum of squared distances from rows to their centres (Lloyd 1982); starts are rows drawn with
chances proportional to their squared distance from the centres so far (Arthur and Vassilvitskii 2007).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from quiltwork.evidence.gaussian import GaussianSummary, finite_table

Array = NDArray[np.float64]

BLOCK_ROWS = 16_384
"""Rows read at a time."""

_ROUNDS = 50


def row_blocks(table: NDArray[np.generic]) -> Iterator[Array]:
    """The rows of a table in order, block by block, float64 and finite."""
    for start in range(0, len(table), BLOCK_ROWS):
        yield finite_table(table[start : start + BLOCK_ROWS])


def k_means(z: Array, components: int, rng: np.random.Generator) -> Array:
    """At most ``components`` centres of the rows of ``z``, float64 ``[J, d]``; fewer where fewer rows are distinct."""
    centres = z[[rng.integers(len(z))]]
    while len(centres) < components and (gaps := _distances(z, centres).min(axis=1)).sum() > 0:
        centres = np.concatenate([centres, z[[rng.choice(len(z), p=gaps / gaps.sum())]]])
    for _ in range(_ROUNDS):
        nearest = _distances(z, centres).argmin(axis=1)
        kept = [number for number in range(len(centres)) if (nearest == number).any()]
        moved = np.stack([z[nearest == number].mean(axis=0) for number in kept])
        if moved.shape == centres.shape and np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _distances(z: Array, centres: Array) -> Array:
    """Squared distances ``[n, J]``; each from differences, so that a row is at exactly 0 from itself."""
    return np.stack([((z - centre) ** 2).sum(axis=1) for centre in centres], axis=1)


def summaries(
    table: NDArray[np.generic], centres: Array, scale: Array, minimum_rows: int
) -> tuple[GaussianSummary, ...]:
    """One summary for each centre's rows, those nearest to it.

    As long as a group is below the minimum, the centre of the smallest is dropped and its rows go elsewhere.

    Args:
        table: ``[n, d]`` with at least ``minimum_rows`` rows.
        centres: ``[J, d]``, in the units of the table.
        scale: ``[d]``, the units in which distances are measured.
        minimum_rows: fewest rows of a group.
    """
    while True:
        groups: list[GaussianSummary | None] = [None] * len(centres)
        for block in row_blocks(table):
            nearest = _distances(block / scale, centres / scale).argmin(axis=1)
            for number in np.unique(nearest):
                part = GaussianSummary.from_rows(block[nearest == number])
                before = groups[number]
                groups[number] = part if before is None else before.merge(part)
        counts = [0 if group is None else group.count for group in groups]
        if min(counts) >= minimum_rows:
            return tuple(group for group in groups if group is not None)
        centres = np.delete(centres, int(np.argmin(counts)), axis=0)
