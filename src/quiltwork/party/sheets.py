"""Sheets: one file or array of a table, read a piece at a time whatever its format.

    names(sheet)                       the columns, in their order
    pieces(sheet, numbers, label)      rows 1..n in order: the columns ``numbers`` as float64, ``label`` as codes

``Sheet`` is the noun; `sheets_arrow` has CSV and Parquet, `sheets_numpy` has NumPy's files and arrays in memory. A
sheet knows no target and judges no value: what is missing comes out as NaN or as code -1, and only what cannot be a
number at all is refused, with its column and row and never with its value (an error message leaves the party more
easily than anything else). Rows are counted from 1, without a header.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from quiltwork.models.mixture.design import Array
from quiltwork.party.paths import refuse

PIECE_ROWS = 32768
"""Rows read at a time where the format leaves a choice: with twenty columns, 5 MB."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Some consecutive rows of a sheet.

    Attributes:
        place: the sheet, as an error names it.
        first: number of the first row, from 1.
        numbers: float64 ``[n, c]``; NaN where nothing stands.
        codes: int64 ``[n]`` into ``words``, -1 where nothing stands; None if no label was asked for.
        words: the labels met in this piece, each once, in any order.
    """

    place: str
    first: int
    numbers: Array
    codes: NDArray[np.int64] | None = None
    words: tuple[str, ...] = ()


class Sheet(Protocol):
    """One file or array with named columns."""

    @property
    def place(self) -> str:
        """How an error names the sheet."""
        ...

    def names(self) -> tuple[str, ...]:
        """The columns; only as much is read as that needs.

        Raises:
            FragmentError: it cannot be read.
        """
        ...

    def pieces(self, numbers: Sequence[str], label: str | None) -> Iterator[Piece]:
        """All rows in order; ``numbers`` and ``label`` are among ``names()``.

        Raises:
            FragmentError: damaged, or a column that is to be numeric is not.
        """
        ...

    def matrix(self, numbers: Sequence[str]) -> NDArray[np.floating] | None:
        """The columns ``numbers`` as a view ``[n, c]`` that copies nothing, or None where the format has none."""
        ...


def whole_words(values: Sequence[object], place: str, column: str) -> tuple[str, ...]:
    """Labels as text: text as it is, whole numbers without a fraction, truth values as 0 and 1.

    Raises:
        FragmentError: a number with a fraction, or a value of another type.

    >>> whole_words([True, 3, 4.0, "ash"], "file 'a'", "tree")
    ('1', '3', '4', 'ash')
    """
    words = []
    for value in values:
        if isinstance(value, str):
            words.append(value)
        elif isinstance(value, bool | int) or (isinstance(value, float) and value.is_integer()):
            words.append(str(int(value)))
        else:
            refuse(
                f"{place} column '{column}'",
                "a label is text or a whole number, and another value stands there",
                "Correct the column, or ask for regression.",
            )
    return tuple(words)


def not_numeric(place: str, column: str, detail: str) -> NoReturn:
    """Refuse a column that holds no numbers; ``detail`` is a type or a row, never a value."""
    refuse(
        f"{place} column '{column}'",
        f"it is not numeric: {detail}",
        "Encode it as numbers, or correct the row; name the features without it, or ask for classification of it.",
    )
