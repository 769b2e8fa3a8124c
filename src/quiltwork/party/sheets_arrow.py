"""CSV and Parquet by way of pyarrow, in batches.

Every needed column of a CSV file is read as text and parsed here: the types that a reader infers from the first block
of a file would make the later ones fail, with the offending value in the message. Empty cells and the usual spellings
of nothing (``NA``, ``NaN``, ``null``, ...) are missing numbers; a label is missing where its cell is empty.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quiltwork.models.mixture.design import Array
from quiltwork.party.paths import refuse, suffix, unreadable
from quiltwork.party.sheets import PIECE_ROWS, Piece, not_numeric, whole_words

_CSV_BLOCK = 1 << 22
_NOTHING = ("", "NA", "N/A", "#N/A", "NaN", "nan", "NAN", "null", "NULL", "None", "-nan", "-NaN")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class CsvSheet:
    """Comma- or tab-separated text with one header line, in UTF-8; ``.gz`` is unpacked on the way."""

    path: Path

    @property
    def place(self) -> str:
        """The file."""
        return f"file '{self.path}'"

    def names(self) -> tuple[str, ...]:
        """The header."""
        for batch in _guarded(self._batches(None), self.place):
            return tuple(batch.schema.names)
        return ()

    def pieces(self, numbers: Sequence[str], label: str | None) -> Iterator[Piece]:
        """The rows, a block of 4 MB of text at a time."""
        wanted = [*numbers, label] if label is not None else list(numbers)
        return _pieces(_guarded(self._batches(wanted), self.place), self.place, numbers, label)

    def matrix(self, numbers: Sequence[str]) -> None:  # noqa: ARG002
        """Text has no view."""
        return

    def _batches(self, wanted: list[str] | None) -> Iterator[Any]:
        """A first empty batch with the header, then, if columns are wanted, theirs."""
        import pyarrow as pa
        from pyarrow import csv

        uneven: list[int] = []

        def note(row: Any) -> str:
            uneven.append(row.number - 1)
            return "error"

        types = {name: pa.string() for name in wanted or ()}
        options = {
            "read_options": csv.ReadOptions(use_threads=False, block_size=_CSV_BLOCK),
            "parse_options": csv.ParseOptions(delimiter=_DELIMITERS[suffix(self.path)], invalid_row_handler=note),
            "convert_options": csv.ConvertOptions(
                column_types=types, include_columns=wanted or [], strings_can_be_null=False, null_values=[]
            ),
        }
        try:
            with (
                pa.input_stream(str(self.path), compression="detect") as stream,
                csv.open_csv(stream, **options) as rows,
            ):
                yield pa.RecordBatch.from_arrays([pa.nulls(0) for _ in rows.schema.names], names=rows.schema.names)
                if wanted is not None:
                    yield from rows
        except pa.ArrowInvalid:
            if not uneven:
                raise
        if uneven:
            refuse(
                f"{self.place} row {uneven[0]}",
                "it has more or fewer cells than the header",
                "Correct the row; cells that hold the delimiter need quotes.",
            )


@dataclass(frozen=True)
class ParquetSheet:
    """One Parquet file."""

    path: Path

    @property
    def place(self) -> str:
        """The file."""
        return f"file '{self.path}'"

    def names(self) -> tuple[str, ...]:
        """The top-level columns."""
        return next(_guarded(self._schema(), self.place))

    def _schema(self) -> Iterator[tuple[str, ...]]:
        from pyarrow import parquet

        with parquet.ParquetFile(self.path, pre_buffer=False) as table:
            yield tuple(table.schema_arrow.names)

    def pieces(self, numbers: Sequence[str], label: str | None) -> Iterator[Piece]:
        """The rows, a batch at a time."""
        wanted = list(dict.fromkeys([*numbers, label] if label is not None else numbers))
        return _pieces(_guarded(self._batches(wanted), self.place), self.place, numbers, label)

    def matrix(self, numbers: Sequence[str]) -> None:  # noqa: ARG002
        """Compressed columns have no view."""
        return

    def _batches(self, wanted: list[str]) -> Iterator[Any]:
        from pyarrow import parquet

        with parquet.ParquetFile(self.path, pre_buffer=False) as table:
            yield from table.iter_batches(batch_size=PIECE_ROWS, columns=wanted, use_threads=False)


def _arrow(place: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        pyarrow = None
    if pyarrow is None:
        refuse(place, "CSV and Parquet tables need pyarrow, which is absent", "Install quiltwork[parquet].")
    return pyarrow


def _guarded(batches: Iterator[Any], place: str) -> Iterator[Any]:
    """The batches; what pyarrow and the file system say is retold without the content that it may quote."""
    arrow = _arrow(place)
    row, why = 1, ""
    try:
        with closing(batches):  # type: ignore[type-var]
            for batch in batches:
                yield batch
                row += getattr(batch, "num_rows", 0)
    except UnicodeDecodeError:
        why = "its text is not UTF-8"
    except OSError as error:
        why = unreadable(error)
    except arrow.ArrowException as error:
        known = "its text is not UTF-8" if "UTF8" in str(error) else "it is damaged, empty or of another format"
        why = f"{known} ({type(error).__name__})"
    if why:
        refuse(f"{place} from row {row}", why, "Check that the file is whole and what its name says.")


def _pieces(batches: Iterator[Any], place: str, numbers: Sequence[str], label: str | None) -> Iterator[Piece]:
    first = 1
    for batch in batches:
        if batch.num_rows == 0:
            continue
        columns = [_numeric(batch.column(name), place, name, first) for name in numbers]
        table = np.column_stack(columns) if columns else np.empty((batch.num_rows, 0))
        codes, words = (None, ()) if label is None else _encoded(batch.column(label), place, label)
        yield Piece(place, first, table, codes, words)
        first += batch.num_rows


def _numeric(column: Any, place: str, name: str, first: int) -> Array:
    """A column as float64, NaN for null."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _parsed(column, place, name, first)
    elif not _is_number(pa.types, column.type):
        not_numeric(place, name, f"its type is {column.type}")
    values = column.cast(pa.float64(), safe=False)
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.float64)


def _is_number(types: Any, kind: Any) -> bool:
    tests = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    return any(test(kind) for test in tests)


def _parsed(column: Any, place: str, name: str, first: int) -> Any:
    """Text as numbers; the first row that is none is named."""
    import pyarrow as pa
    from pyarrow import compute

    trimmed = compute.utf8_trim_whitespace(column)
    nothing = compute.is_in(trimmed, value_set=pa.array(_NOTHING, type=trimmed.type))
    trimmed = compute.if_else(nothing, pa.scalar(None, type=trimmed.type), trimmed)
    try:
        return trimmed.cast(pa.float64())
    except pa.ArrowInvalid:
        bad = next(i for i, value in enumerate(trimmed) if not _parses(value))
    return not_numeric(place, name, f"row {first + bad} holds text")


def _parses(value: Any) -> bool:
    import pyarrow as pa

    try:
        value.cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _encoded(column: Any, place: str, name: str) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """A column as codes into its words; empty text is missing."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = compute.if_else(compute.equal(column, ""), pa.scalar(None, type=column.type), column)
    if pa.types.is_floating(column.type):
        column = compute.if_else(compute.is_nan(column), pa.scalar(None, type=column.type), column)
    encoded = column.dictionary_encode()
    codes = compute.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    return np.asarray(codes, dtype=np.int64), whole_words(encoded.dictionary.to_pylist(), place, name)
