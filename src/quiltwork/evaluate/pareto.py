"""The Pareto front: which models are not beaten in every column at once.

Row a *dominates* row b, where lower is better, when a_j <= b_j in every column j and a_j < b_j in at least
one. The front is the set of rows that no row dominates. Equal rows do not dominate each other, so ties stay
on the front together: the numbers give no reason to drop either. Which model of the front to take is a choice
between parties that no average can make for them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from quiltwork.errors import InvalidOption


def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether ``a`` is nowhere above ``b`` and somewhere below it.

    >>> dominates([1.0, 2.0], [1.0, 3.0]), dominates([1.0, 2.0], [1.0, 2.0])
    (True, False)
    """
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


def front(rows: Mapping[str, Sequence[float]]) -> list[str]:
    """The names of the rows that no other row dominates, in the order given; lower is better in every column.

    Args:
        rows: for each name its values, equally many for all (bits per byte, parameters, seconds: any units).

    Raises:
        InvalidOption: rows of different lengths, rows without columns, or a value that is not finite.

    >>> front({"base": [3.9, 2.1], "soup": [3.0, 2.7], "evidence": [2.0, 2.1]})
    ['evidence']
    """
    _check(rows)
    return [name for name, row in rows.items() if not any(dominates(other, row) for other in rows.values())]


def _check(rows: Mapping[str, Sequence[float]]) -> None:
    lengths = {len(row) for row in rows.values()}
    if len(lengths) > 1 or 0 in lengths:
        raise InvalidOption(
            "rows of a Pareto front",
            why=f"they have {sorted(lengths)} columns, and domination needs the same columns, at least one",
            mend="Give every row a value in every column.",
        )
    for name, row in rows.items():
        for column, value in enumerate(row):
            if not math.isfinite(value):
                raise InvalidOption(
                    f"row {name!r}, column {column} of a Pareto front",
                    why=f"{value} cannot be compared",
                    mend="Leave the row or the column out, or measure it.",
                )
