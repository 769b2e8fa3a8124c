"""A party's table: rows of named covariates and a response, on disk or in memory, read block by block.

    open_table(paths, target="y")  ->  TableFragment        names are checked now, values when they are read
    fragment.blocks()              ->  Rows, Rows, ...      checked rows in order, some ten thousand at a time
    fragment.arrays()              ->  Rows                 all of them, as one matrix

=====================================  ==================================================================
file                                   columns
=====================================  ==================================================================
``.csv`` ``.tsv`` (``.gz``)            the header line
``.parquet``                           the top-level columns
``.npy``                               the fields, or ``columns``, or ``x0``, ``x1``, ...
``.npz``                               its members
=====================================  ==================================================================

Several files are one table, their rows one after the other. What cannot be used is refused with its file, column and
row, never with the value that stands there. Rows are counted from 1 in each file, without the header.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.errors import FragmentError
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import FamilyName, Response
from quiltwork.models.mixture.local import Table
from quiltwork.party.paths import found, require_readable, suffix
from quiltwork.party.sheets import Piece, Sheet
from quiltwork.party.sheets_arrow import CsvSheet, ParquetSheet
from quiltwork.party.sheets_numpy import NumpySheet, side_by_side
from quiltwork.party.table_names import (
    Missing,
    Task,
    require_columns,
    require_names,
    require_options,
    unique_names,
    units_of,
)
from quiltwork.party.table_rows import Rows, gathered

FAMILIES: Mapping[Task, FamilyName] = {"regression": "gaussian", "classification": "multinomial", "counts": "poisson"}
"""The experts that answer each task."""

MEMORY_BUDGET = 1 << 30
"""Bytes of covariates above which `TableFragment.arrays` keeps them in a temporary file, mapped into memory."""


@dataclass(frozen=True, eq=False)
class TableFragment:
    """The table of one party, as `open_table` or `table_from_arrays` found it.

    Attributes:
        sheets: files or arrays whose rows follow each other.
        features: names of the covariates, in the order of the columns of x.
        units: their units, as many; ``""`` where unstated.
        target: name of the response or of several; empty for covariates alone.
        task: what is to be learned of it.
        weight: name of the column of row weights, if any.
        classes: labels in the order of their codes, where they were declared.
        missing: whether a row with an absent or infinite value is refused or left out.
    """

    sheets: tuple[Sheet, ...]
    features: tuple[str, ...]
    units: tuple[str, ...]
    target: tuple[str, ...]
    task: Task = "regression"
    weight: str | None = None
    classes: tuple[str, ...] | None = None
    missing: Missing = "refuse"

    @property
    def family(self) -> FamilyName:
        """The experts that answer the task."""
        return FAMILIES[self.task]

    @property
    def place(self) -> str:
        """How an error names the table."""
        return self.sheets[0].place if len(self.sheets) == 1 else f"table of {len(self.sheets)} files"

    def meaning(self, classes: tuple[str, ...] | None) -> Table:
        """What other parties must agree on; ``classes`` as `Rows` has them."""
        return Table(self.features, self.units, self.target, classes, self.family)

    def labelled(self) -> TableFragment:
        """The same fragment with its classes declared: those found, numbers in their order, then text in its own.

        Reads the target once where classes are needed and were not declared; returns itself otherwise.

        Raises:
            FragmentError: as `blocks`.
        """
        if self.classes is not None or self.task != "classification" or not self.target:
            return self
        words: set[str] = set()
        for sheet in self.sheets:
            for piece in sheet.pieces((), self.target[0]):
                words.update(piece.words)
        return replace(self, classes=tuple(sorted(words, key=_label_order)))

    def blocks(self) -> Iterator[Rows]:
        """The rows in order, checked, as they are asked for; a block may be empty where rows are left out.

        Raises:
            FragmentError: at the first row that cannot be used.
        """
        fragment = self.labelled()
        label = fragment.target[0] if fragment.classes is not None and fragment.target else None
        responses = () if label is not None else fragment.target
        weights = () if fragment.weight is None else (fragment.weight,)
        for sheet in fragment.sheets:
            for piece in sheet.pieces((*fragment.features, *responses, *weights), label):
                yield fragment._checked(piece)

    def arrays(
        self, *, memory: int = MEMORY_BUDGET, dtype: type[np.floating] = np.float64, any_rows: bool = False
    ) -> Rows:
        """All rows.

        The covariates of one ``.npy`` file, or of an array in memory, are a view of it where their columns stand side
        by side and no row is left out; it keeps the type it has there.

        Args:
            memory: bytes of covariates above which they go to an anonymous temporary file.
            dtype: float64, or float32 for half the memory.
            any_rows: take rows from which nothing can be learned, too, as a fit under noise does: a refusal would tell
                of them.

        Raises:
            FragmentError: a row cannot be used, there are none, the response is constant, or all weights are zero.
            StorageError: the temporary file does not fit on its disk.
        """
        fragment = self.labelled()
        view = fragment.sheets[0].matrix(fragment.features) if len(fragment.sheets) == 1 else None
        rows = gathered(fragment.blocks(), len(fragment.features), memory=memory, dtype=dtype, view=view)
        if rows is None:
            rows = gathered(fragment.blocks(), len(fragment.features), memory=memory, dtype=dtype)
        assert rows is not None
        if not any_rows:
            rows.require_usable(self.place, self.target)
        return rows if len(rows) or rows.classes is not None else replace(rows, y=np.empty((0, len(self.target))))

    def _checked(self, piece: Piece) -> Rows:
        """A piece as rows: values that are missing, infinite or outside their domain are refused or left out."""
        usable = np.isfinite(piece.numbers).all(axis=1)
        if piece.codes is not None:
            usable &= piece.codes >= 0
        if self.missing == "refuse" and not usable.all():
            self._refuse_missing(piece, int(np.argmin(usable)))
        columns = piece.numbers if usable.all() else piece.numbers[usable]
        d, q = len(self.features), len(self.target)
        weights = columns[:, -1] if self.weight is not None else None
        y = columns[:, d : d + q] if piece.codes is None else self._recoded(piece)[usable]
        first_rows = piece.first + np.flatnonzero(usable)
        self._require_domain(piece, y, weights, first_rows)
        return Rows(columns[:, :d], y, weights, self.classes, dropped=int((~usable).sum()))

    def _refuse_missing(self, piece: Piece, row: int) -> None:
        values = piece.numbers[row]
        names = (
            *self.features,
            *(self.target if piece.codes is None else ()),
            *((self.weight,) if self.weight else ()),
        )
        bad = [name for name, value in zip(names, values, strict=True) if not math.isfinite(value)]
        if bad:
            infinite = math.isinf(values[names.index(bad[0])])
            name, why = bad[0], "an infinite value" if infinite else "a missing value or NaN"
        else:
            name, why = self.target[0], "a missing label"
        raise FragmentError(
            f"{piece.place} column '{name}' row {piece.first + row}",
            why=f"there is {why}",
            mend='Correct it, or leave such rows out with missing="drop" (--missing drop).',
        )

    def _recoded(self, piece: Piece) -> NDArray[np.int64]:
        """Codes of the piece's own words as codes of the classes; a label that is no class is refused."""
        assert piece.codes is not None
        assert self.classes is not None
        known = {word: code for code, word in enumerate(self.classes)}
        codes = np.array([*(known.get(word, -2) for word in piece.words), -1], dtype=np.int64)[piece.codes]
        if (codes == -2).any():
            raise FragmentError(
                f"{piece.place} column '{self.target[0]}' row {piece.first + int(np.argmax(codes == -2))}",
                why="its label is none of the classes that were declared",
                mend="Declare all classes that any party has, or correct the row.",
            )
        return codes

    def _require_domain(self, piece: Piece, y: Response, weights: Array | None, numbers: NDArray[np.intp]) -> None:
        if weights is not None and (weights < 0).any():
            raise FragmentError(
                f"{piece.place} column '{self.weight}' row {numbers[np.argmax(weights < 0)]}",
                why="a weight is negative",
                mend="Weights are zero or more.",
            )
        if self.task == "counts" and ((y < 0) | (y != np.floor(y))).any():
            row = int(np.argmax(((y < 0) | (y != np.floor(y))).any(axis=1)))
            raise FragmentError(
                f"{piece.place} column '{self.target[0]}' row {numbers[row]}",
                why="a count is a whole number from 0 on",
                mend="Correct the row, or ask for regression.",
            )


def _label_order(word: str) -> tuple[int, int, str]:
    """Whole numbers by value before text by its characters."""
    try:
        return (0, int(word), word)
    except ValueError:
        return (1, 0, word)


def open_table(
    paths: Sequence[str | os.PathLike[str]],
    *,
    target: str | Sequence[str],
    features: Sequence[str] | None = None,
    units: Mapping[str, str] | Sequence[str] | None = None,
    weight: str | None = None,
    task: Task = "regression",
    classes: Sequence[str] | None = None,
    missing: Missing = "refuse",
    columns: Sequence[str] = (),
) -> TableFragment:
    """Find the files of a table and check their names; values are read later.

    Args:
        paths: files, and directories, whose files in order of name are taken (hidden ones left out).
        target: the response, or several for regression with several outputs; empty to read covariates alone.
        features: the covariates in their order; None for all other columns in the order of the first file, and then all
            files must have the same columns.
        units: of the features, by name or in their order; other parties must state the same.
        weight: a column of row weights.
        task: regression of numbers, classification of labels (text or whole numbers), or counts.
        classes: all labels that any party has; None for those found here.
        missing: refuse a row with an absent, NaN or infinite value, or leave it out.
        columns: names for the columns of a ``.npy`` matrix, which has none.

    Raises:
        FragmentError: a file cannot be read or lacks a column, names are double, or there is no feature.
        InvalidOption: an option lies outside its domain.
    """
    files = found(paths)
    return _fragment(
        tuple(_sheet(file, tuple(columns)) for file in files),
        target=target, features=features, units=units, weight=weight, task=task, classes=classes, missing=missing,
    )  # fmt: skip


def table_from_arrays(
    x: ArrayLike,
    y: ArrayLike,
    *,
    features: Sequence[str] = (),
    target: str | Sequence[str] = "y",
    weights: ArrayLike | None = None,
    units: Mapping[str, str] | Sequence[str] | None = None,
    task: Task = "regression",
    classes: Sequence[str] | None = None,
    missing: Missing = "refuse",
) -> TableFragment:
    """Arrays as a table; nothing is copied until it is read.

    Args:
        x: numbers ``[n, d]``; a memory map stays one.
        y: ``[n]``, or ``[n, q]`` for q targets; labels for classification.
        features: d names; empty for ``x0``, ``x1``, ...
        target: name or names of the response.
        weights: ``[n]``, or None.
        units: as `open_table`.
        task: as `open_table`.
        classes: as `open_table`.
        missing: as `open_table`.

    Raises:
        FragmentError: shapes do not fit each other or the names.
        InvalidOption: an option lies outside its domain.
    """
    matrix, response = np.asanyarray(x), np.asanyarray(y)
    names = (target,) if isinstance(target, str) else tuple(target)
    parts = [side_by_side("covariates", {"x": matrix}, features).parts[0]]
    parts.append((names, response[:, 0] if response.ndim == 2 and response.shape[1] == 1 else response))
    if weights is not None:
        parts.append((("weight",), np.asarray(weights, dtype=np.float64)))
    _require_shapes(parts)
    sheet = replace(side_by_side("table in memory", {"x": matrix}, features), parts=tuple(parts))
    return _fragment(
        (sheet,), target=names, features=parts[0][0], units=units, task=task, classes=classes, missing=missing,
        weight=None if weights is None else "weight",
    )  # fmt: skip


def _require_shapes(parts: Sequence[tuple[tuple[str, ...], NDArray[np.generic]]]) -> None:
    rows = len(parts[0][1])
    for names, array in parts[1:]:
        if array.shape != ((rows,) if len(names) == 1 else (rows, len(names))):
            raise FragmentError(
                f"array of {', '.join(names)}",
                why=f"it has shape {array.shape} beside {rows} rows of covariates",
                mend="Give one row a row, and one column a name.",
            )


def _sheet(path: Path, columns: tuple[str, ...]) -> Sheet:
    require_readable(path)
    match suffix(path):
        case ".csv" | ".tsv":
            return CsvSheet(path)
        case ".parquet" if path.suffix.lower() != ".gz":
            return ParquetSheet(path)
        case ".npy" | ".npz" if path.suffix.lower() != ".gz":
            return NumpySheet(path, columns)
    raise FragmentError(
        f"file '{path}'",
        why="its format is not read as a table",
        mend="Convert it to .csv, .tsv, .parquet, .npy or .npz, or leave it out.",
    )


def _fragment(
    sheets: tuple[Sheet, ...],
    *,
    target: str | Sequence[str],
    features: Sequence[str] | None,
    units: Mapping[str, str] | Sequence[str] | None,
    weight: str | None,
    task: Task,
    classes: Sequence[str] | None,
    missing: Missing,
) -> TableFragment:
    """Names and options checked against each other and against every sheet."""
    responses = (target,) if isinstance(target, str) else tuple(target)
    require_options(responses, task, classes, missing)
    named = [(sheet, unique_names(sheet)) for sheet in sheets]
    apart = {*responses, *([weight] if weight is not None else [])}
    chosen = tuple(features) if features is not None else tuple(n for n in named[0][1] if n not in apart)
    require_names(chosen, responses, weight, named[0][0].place)
    for sheet, names in named:
        require_columns(sheet, names, (*responses, *([weight] if weight is not None else []), *chosen))
        if features is None and (extra := [name for name in names if name not in {*chosen, *apart}]):
            raise FragmentError(
                f"{sheet.place} column '{extra[0]}'",
                why=f"{named[0][0].place} has no such column",
                mend="Name the features, or give all files the same columns.",
            )
    declared = None if classes is None else tuple(str(label) for label in classes)
    return TableFragment(sheets, chosen, units_of(chosen, units), responses, task, weight, declared, missing)
