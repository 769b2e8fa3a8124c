"""The rows of a plan: each party's own columns, the label column, and the agreed order of the cases.

    party's files  ->  x float32 [n, p], ids      label files  ->  codes or numbers [n], ids
    agreed order: that of the linkage, over parties and labels alike; where there are no ids, that of the files

Unless the plan asks for processes, all files are opened by one. What the parties' components see is nevertheless their
own rows alone; that others could not look is not claimed, and the records say "not sealed". With processes this one
uses the labels and the ids (without ids a column, to count rows), and each party's process opens its own files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.cli.split.plan import Plan
from quiltwork.cli.split.plan_parts import LabelsPart, PartyPart
from quiltwork.errors import FragmentError, InvalidOption
from quiltwork.party.alignment import Linkage, SameRows, require_equal_counts
from quiltwork.party.intersection import CommonRows
from quiltwork.party.sheets import Sheet
from quiltwork.party.table import open_table

LABELS = "labels"
"""How an error names the label files among the parties; no party may be called so."""


@dataclass(frozen=True, eq=False)
class Columns:
    """A party's own table.

    Attributes:
        names: of the columns.
        values: float64 ``[n, p]``.
        ids: of the rows; None where the plan names none.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    ids: tuple[str, ...] | None


@dataclass(frozen=True, eq=False)
class Cases:
    """Everything that a plan's files say, in the agreed order.

    Attributes:
        fragments: float32 ``[n, p]``, by party.
        columns: their names, by party.
        labels: int64 codes ``[n]``, or float32 standardised numbers ``[n]``.
        classes: labels in the order of their codes; None for numbers.
        centre, scale: numbers are (label - centre) / scale.
        ids: in the agreed order; None where the plan names none.
        order: int64 ``[n]``, by party its row of each case.
    """

    fragments: Mapping[str, Tensor]
    columns: Mapping[str, tuple[str, ...]]
    labels: Tensor
    classes: tuple[str, ...] | None
    centre: float
    scale: float
    ids: tuple[str, ...] | None
    order: Mapping[str, NDArray[np.int64]]

    def __len__(self) -> int:
        return len(self.labels)


def read_cases(plan: Plan, root: Path, *, covariates: bool = True) -> Cases:
    """Read, check and align everything a plan names.

    Args:
        plan: what to read.
        root: the directory that its paths are relative to.
        covariates: whether to read the parties' columns; without them only names, ids and numbers of rows.

    Raises:
        FragmentError: a file cannot be used, or an id appears twice.
        TableMismatch: the parties have not the same cases.
        InvalidOption: a label outside the set, or a party that holds the label among its columns.
    """
    read = read_columns if covariates else read_names
    tables = {party: read(part, plan.id, root) for party, part in sorted(plan.parties.items())}
    words, label_ids = label_words(plan.labels, plan.id, root)
    require_no_label(plan, tables, root)
    counts = {party: len(table.values) for party, table in tables.items()} | {LABELS: len(words)}
    ids = {party: table.ids for party, table in tables.items()} | {LABELS: label_ids}
    order = agreed(counts, ids, linkage(plan))
    fragments = (
        {party: table.values[order[party]].astype(np.float32) for party, table in tables.items()} if covariates else {}
    )
    labels, classes, centre, scale = coded(plan.labels, [words[i] for i in order[LABELS]])
    return Cases(
        fragments={party: torch.from_numpy(rows) for party, rows in fragments.items()},
        columns={party: table.names for party, table in tables.items()},
        labels=labels,
        classes=classes,
        centre=centre,
        scale=scale,
        ids=tuple(label_ids[i] for i in order[LABELS]) if label_ids is not None else None,
        order=order,
    )


def read_columns(part: PartyPart, id_column: str | None, root: Path, columns: Sequence[str] | None = None) -> Columns:
    """A party's table; ``columns`` are those of a fit, where it is not the plan's first reading.

    Raises:
        FragmentError: a file cannot be used.
    """
    names = list(columns) if columns is not None else part.columns
    files = [root / file for file in part.files]
    if id_column is None:
        rows = open_table(files, target=(), features=names)
        found = rows.arrays()
        return Columns(rows.features, found.x, None)
    fragment = open_table(files, target=id_column, features=names, task="classification").labelled()
    blocks = list(fragment.blocks())
    values = np.concatenate([block.x for block in blocks]) if blocks else np.empty((0, len(fragment.features)))
    if len(values) == 0:
        raise FragmentError(fragment.place, why="it holds no rows", mend="Give a table with rows.")
    classes = fragment.classes or ()
    return Columns(fragment.features, values, tuple(classes[int(code)] for block in blocks for code in block.y))


def read_names(part: PartyPart, id_column: str | None, root: Path) -> Columns:
    """A party's columns by name, its ids, and as many rows of no columns; its covariates are not read.

    Raises:
        FragmentError: a file cannot be used.
    """
    files = [root / file for file in part.files]
    if id_column is None:
        table = open_table(files, target=(), features=part.columns)
        first = table.features[:1]
        count = sum(len(piece.numbers) for sheet in table.sheets for piece in sheet.pieces(first, None))
        return Columns(table.features, np.empty((count, 0)), None)
    table = open_table(files, target=id_column, features=part.columns, task="classification")
    ids = tuple(_words(table.sheets, id_column))
    return Columns(table.features, np.empty((len(ids), 0)), ids)


def agreed(
    counts: Mapping[str, int], ids: Mapping[str, Sequence[str] | None], rule: Linkage
) -> dict[str, NDArray[np.int64]]:
    """By party, its row of each agreed case.

    Raises:
        FragmentError: an id appears twice.
        TableMismatch: unequal numbers of rows, or rows that cannot be matched.
    """
    known = {party: own for party, own in ids.items() if own is not None}
    if len(known) == len(counts):
        return rule.positions(known)
    require_equal_counts(counts)
    return {party: np.arange(count, dtype=np.int64) for party, count in counts.items()}


def linkage(plan: Plan) -> Linkage:
    """How the plan wants rows matched."""
    return CommonRows() if plan.align == "common" else SameRows()


def label_words(part: LabelsPart, id_column: str | None, root: Path) -> tuple[list[str], tuple[str, ...] | None]:
    """The label column as words, numbers written out in full; and the ids.

    Raises:
        FragmentError: a file cannot be used, or a label is missing.
    """
    files = [root / file for file in part.files]
    # the names are checked here; a column is read as words or as numbers only below
    sheets = (
        open_table(files, target=id_column or (), features=[part.column], task="classification").sheets
        if id_column
        else open_table(files, target=(), features=[part.column]).sheets
    )
    labels = _words(sheets, part.column) if part.task == "classification" else _numbers(sheets, part.column)
    return labels, tuple(_words(sheets, id_column)) if id_column else None


def _words(sheets: Sequence[Sheet], column: str) -> list[str]:
    found: list[str] = []
    for sheet in sheets:
        for piece in sheet.pieces((), column):
            assert piece.codes is not None
            if (piece.codes < 0).any():
                raise _missing(piece.place, column, piece.first + int(np.argmax(piece.codes < 0)))
            found += [piece.words[code] for code in piece.codes]
    return found


def _numbers(sheets: Sequence[Sheet], column: str) -> list[str]:
    found: list[str] = []
    for sheet in sheets:
        for piece in sheet.pieces((column,), None):
            values = piece.numbers[:, 0]
            if not np.isfinite(values).all():
                raise _missing(piece.place, column, piece.first + int(np.argmin(np.isfinite(values))))
            found += [repr(float(value)) for value in values]
    return found


def _missing(place: str, column: str, row: int) -> FragmentError:
    return FragmentError(
        f"{place} column '{column}' row {row}",
        why="nothing stands there that can be used",
        mend="Correct the row, or leave it out of all files.",
    )


def coded(part: LabelsPart, words: Sequence[str]) -> tuple[Tensor, tuple[str, ...] | None, float, float]:
    """Labels in words as codes or standardised numbers ``[n]``, the classes, centre and scale, as `Cases` has them.

    Raises:
        InvalidOption: there are none, they are of one class, or one is outside the set.
    """
    if not words:
        raise InvalidOption("the cases", why="the parties have none in common", mend="Align their ids.")
    if part.task == "regression":
        values = np.array([float(word) for word in words])
        centre, scale = float(values.mean()), float(values.std()) or 1.0
        return torch.from_numpy(((values - centre) / scale).astype(np.float32)), None, centre, scale
    classes = tuple(part.classes or sorted(set(words), key=lambda word: (not word.isdigit(), len(word), word)))
    known = {word: code for code, word in enumerate(classes)}
    strange = next((row for row, word in enumerate(words) if word not in known), None)
    if strange is not None or len(classes) < 2:
        raise InvalidOption(
            "labels" if strange is None else f"the label of case {strange + 1} of the agreed order",
            why="they are of one class" if strange is None else f"it is none of the {len(classes)} classes declared",
            mend="Correct the labels, or declare all classes: labels.classes.",
        )
    return torch.tensor([known[word] for word in words], dtype=torch.int64), classes, 0.0, 1.0


def require_no_label(plan: Plan, tables: Mapping[str, Columns], root: Path) -> None:
    """A party that trains on the label column of the label files would know what it is to learn."""
    label_files = {(root / file).resolve() for file in plan.labels.files}
    for party, table in tables.items():
        shared = label_files & {(root / file).resolve() for file in plan.parties[party].files}
        if shared and plan.labels.column in table.names:
            raise InvalidOption(
                f"column '{plan.labels.column}' of party '{party}'",
                why="it is the label",
                mend=f"Name the party's own columns: parties.{party}.columns.",
            )
