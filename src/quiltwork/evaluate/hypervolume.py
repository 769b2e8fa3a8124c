"""How much of all possible outcomes for several owners a set of models beats: the hypervolume.

With losses per owner, lower is better, and a reference point r that is worse than all that matter,

    H(S) = volume of { z : a <= z <= r for some a in S }

(E. Zitzler and L. Thiele 1998). A model that no other beats for all owners at once adds to it, one that is beaten adds
nothing; no weights between owners are chosen. Computed exactly by slicing along the last column (M. Fleischer 2003; L.
While et al. 2006), which is quick for the few owners and models that meet here and exponential in the number of owners.

>>> hypervolume([(0.1, 0.3), (0.3, 0.1), (0.4, 0.4)], (0.5, 0.5))
0.12
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from quiltwork.errors import InvalidOption
from quiltwork.evaluate.pareto import dominates


def hypervolume(rows: Sequence[Sequence[float]], reference: Sequence[float]) -> float:
    """The volume between the rows and a reference point.

    Args:
        rows: one for each model, a loss for each owner. What is beyond the reference in any column adds nothing.
        reference: a loss for each owner, the same for all sets that are compared.

    Raises:
        InvalidOption: rows of other lengths, no column, or a value that is not finite.
    """
    for row in (reference, *rows):
        if not reference or len(row) != len(reference) or not all(math.isfinite(value) for value in row):
            raise InvalidOption(
                "rows of a hypervolume",
                why="each needs one finite number for each column of the reference",
                mend="Leave out models that were not measured for every owner.",
            )
    inside = [tuple(row) for row in rows if all(x < r for x, r in zip(row, reference, strict=True))]
    return round(_volume(inside, tuple(reference)), 12)


def _volume(rows: list[tuple[float, ...]], reference: tuple[float, ...]) -> float:
    if not rows:
        return 0.0
    if len(reference) == 1:
        return reference[0] - min(row[0] for row in rows)
    total = 0.0
    ordered = sorted(rows, key=lambda row: row[-1])
    ends = [row[-1] for row in ordered[1:]] + [reference[-1]]
    slab: list[tuple[float, ...]] = []
    for row, end in zip(ordered, ends, strict=True):
        slab = _front([*slab, row[:-1]])
        if end > row[-1]:
            total += (end - row[-1]) * _volume(slab, reference[:-1])
    return total


def _front(rows: list[tuple[float, ...]]) -> list[tuple[float, ...]]:
    distinct = list(dict.fromkeys(rows))
    return [row for row in distinct if not any(dominates(other, row) for other in distinct)]
