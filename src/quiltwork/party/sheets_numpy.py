"""NumPy's files, and arrays in memory or mapped from disk.

A ``.npy`` file is one matrix (its columns are named by the caller, else ``x0``, ``x1``, ...) or one structured array
(its fields are the columns). In a ``.npz`` archive every member is a column under its own name, or a matrix whose
columns are its name with a number. Arrays of Python objects are refused unread: nothing is unpickled.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from quiltwork.errors import FragmentError
from quiltwork.models.mixture.design import blocks
from quiltwork.party.paths import refuse
from quiltwork.party.sheets import PIECE_ROWS, Piece, not_numeric, whole_words

_WHOLE = "Check that the file is whole and holds plain numbers or text."


@dataclass(frozen=True, eq=False)
class ArraySheet:
    """Arrays side by side: each one a column ``[n]`` or several named columns ``[n, c]``.

    Attributes:
        place: how an error names it.
        parts: pairs of column names and their array, all with the same number of rows.
    """

    place: str
    parts: tuple[tuple[tuple[str, ...], NDArray[np.generic]], ...]

    def names(self) -> tuple[str, ...]:
        """The columns of the parts, in their order."""
        return tuple(name for names, _ in self.parts for name in names)

    def pieces(self, numbers: Sequence[str], label: str | None) -> Iterator[Piece]:
        """The rows, `PIECE_ROWS` at a time."""
        columns = {name: self._column(name) for name in [*numbers, *([label] if label is not None else [])]}
        for name in numbers:
            if columns[name].dtype.kind not in "biuf":
                not_numeric(self.place, name, f"its type is {columns[name].dtype}")
        for rows in blocks(len(self.parts[0][1]), PIECE_ROWS):
            table = np.empty((rows.stop - rows.start, len(numbers)))
            for j, name in enumerate(numbers):
                table[:, j] = columns[name][rows]
            codes, words = (None, ()) if label is None else _encoded(columns[label][rows], self.place, label)
            yield Piece(self.place, rows.start + 1, table, codes, words)

    def _column(self, name: str) -> NDArray[np.generic]:
        for names, array in self.parts:
            if name in names:
                return array if array.ndim == 1 else array[:, names.index(name)]
        raise KeyError(name)

    def matrix(self, numbers: Sequence[str]) -> NDArray[np.floating] | None:
        """Neighbouring columns of one matrix of floating-point numbers."""
        for names, array in self.parts:
            if numbers and numbers[0] in names and array.ndim == 2 and array.dtype in (np.float64, np.float32):
                first = names.index(numbers[0])
                if names[first : first + len(numbers)] == tuple(numbers):
                    return cast(NDArray[np.floating], array[:, first : first + len(numbers)])
        return None


@dataclass(frozen=True)
class NumpySheet:
    """A ``.npy`` or ``.npz`` file, opened when it is read; ``.npy`` is mapped and never loaded as a whole.

    Attributes:
        path: the file.
        columns: names for a matrix that has none, or empty.
    """

    path: Path
    columns: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """The file."""
        return f"file '{self.path}'"

    def names(self) -> tuple[str, ...]:
        """The columns."""
        return self._open().names()

    def pieces(self, numbers: Sequence[str], label: str | None) -> Iterator[Piece]:
        """The rows."""
        return self._open().pieces(numbers, label)

    def matrix(self, numbers: Sequence[str]) -> NDArray[np.floating] | None:
        """A view of the mapped file."""
        return self._open().matrix(numbers) if self.path.suffix.lower() == ".npy" else None

    def _open(self) -> ArraySheet:
        try:
            arrays = self._archive() if self.path.suffix.lower() == ".npz" else self._mapped()
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            refuse(self.place, "it is no whole NumPy file of numbers or text", _WHOLE)
        return side_by_side(self.place, arrays, self.columns)

    def _mapped(self) -> Mapping[str, NDArray[np.generic]]:
        array = npy.open_memmap(self.path, mode="r")
        if array.dtype.names is not None:
            return {name: array[name] for name in array.dtype.names}
        return {"x": array}

    def _archive(self) -> Mapping[str, NDArray[np.generic]]:
        with zipfile.ZipFile(self.path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".npy")]
            return {name.removesuffix(".npy"): _member(archive, name) for name in members}


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[np.generic]:
    with archive.open(name) as file:
        return np.asarray(npy.read_array(file, allow_pickle=False))


def side_by_side(place: str, arrays: Mapping[str, NDArray[np.generic]], columns: Sequence[str] = ()) -> ArraySheet:
    """Arrays as one sheet.

    Args:
        place: how an error names it.
        arrays: columns ``[n]`` and matrices ``[n, c]`` by name.
        columns: names for the columns of a single matrix.

    Raises:
        FragmentError: an array has another rank or another number of rows, or the names do not fit the matrix.
    """
    if not arrays:
        raise FragmentError(place, why="it holds no array", mend=_WHOLE)
    parts = [(_names(place, name, array, columns if len(arrays) == 1 else ()), array) for name, array in arrays.items()]
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"'{name}' {count}" for name, count in rows.items())
        raise FragmentError(place, why=f"its arrays differ in their rows: {counts}", mend="Give all the same rows.")
    return ArraySheet(place, tuple(parts))


def _names(place: str, name: str, array: NDArray[np.generic], columns: Sequence[str]) -> tuple[str, ...]:
    if array.ndim == 1 and not columns:
        return (name,)
    if array.ndim != 2:
        raise FragmentError(
            f"{place} array '{name}'", why=f"it has shape {array.shape}", mend="Give columns [n] or a matrix [n, c]."
        )
    if columns and len(columns) != array.shape[1]:
        raise FragmentError(
            place,
            why=f"it has {array.shape[1]} columns, and {len(columns)} names are given",
            mend="Give one name a column.",
        )
    return tuple(columns) or tuple(f"{name}{j}" for j in range(array.shape[1]))


def _encoded(column: NDArray[np.generic], place: str, name: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Codes into the distinct values; NaN and empty text are missing."""
    values, codes = np.unique(column, return_inverse=True)
    absent = np.array([value != value or value == "" for value in values.tolist()], dtype=bool)
    words = whole_words([value for value in values.tolist() if value == value and value != ""], place, name)
    renumbered = np.where(absent, -1, np.cumsum(~absent) - 1)
    return np.asarray(renumbered[codes], dtype=np.int64), words
