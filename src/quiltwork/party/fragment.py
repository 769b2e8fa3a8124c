"""A party's fragment: the only code that opens private data.

A fragment is a fixed list of files, found once when it is opened, and a stream of documents over them:

    documents() = d_1, d_2, ..., d_n          always in this order; memory: the longest d_i
    split(f)    = (train, held out)           d_i is held out iff SHA-256(salt, d_i) < f, read as a fraction

Equal texts thereby fall on one side, whatever their order and whatever else is there, and raising f only
moves documents from training to held out.

====================================  ===================================================================
file                                  documents
====================================  ===================================================================
``.jsonl`` ``.ndjson`` (``.gz``)      one JSON object a line; the field ``text_field`` of each
``.parquet``                          one a row; the column ``text_field``
any other (``.gz``)                   UTF-8 text; one a piece between form feeds, or the whole file
====================================  ===================================================================

Documents of white space alone are skipped. Formats whose bytes only look like text (CSV, whole-file JSON,
archives) are refused by name, for reading them as text would train on their syntax.

What cannot be read is refused with the file and the place (byte offset, line or row), never with what stands
there: an error message leaves the party more easily than anything else. For the same reason no refusal has an
original exception as its cause: decoding errors carry the text they failed on.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from quiltwork.errors import FragmentError, InvalidOption
from quiltwork.party.paths import found, refuse, require_readable, suffix, unreadable

_CHUNK = 1 << 20
_RECORDS = (".jsonl", ".ndjson")
_NOT_TEXT = {
    ".csv", ".tsv", ".json", ".zip", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".arrow", ".feather",
    ".xlsx", ".docx", ".pdf",
}  # fmt: skip
_MEND = "Correct or remove it, or leave the file out of the fragment."


def is_held_out(text: str, fraction: float, salt: str = "") -> bool:
    """Whether the document ``text`` belongs to the held-out part.

    Args:
        text: the whole document; every character counts.
        fraction: expected share of distinct documents that are held out, from 0 to 1.
        salt: names the split; another salt gives an independent one.

    Raises:
        InvalidOption: the fraction lies outside [0, 1].

    >>> [is_held_out(text, 0.5) for text in ("a rose", "a yew", "a rose")]
    [False, True, False]
    """
    if not 0.0 <= fraction <= 1.0:
        raise InvalidOption(
            f"held-out fraction {fraction}",
            why="it is a share of the documents",
            mend="Give 0 to 1, such as 0.1.",
        )
    digest = hashlib.sha256(f"{len(salt)}:{salt}:{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < int(fraction * 2**64)


@dataclass(frozen=True)
class Description:
    """The size of a fragment: files, documents kept and their bytes in UTF-8."""

    files: int
    documents: int
    bytes: int


@dataclass(frozen=True)
class Fragment:
    """The files of one party, as :func:`open_fragment` found them, and the field that holds the text.

    ``only`` holds the places of the documents that belong to it, where not all do, in the order of the files.
    """

    files: tuple[Path, ...]
    text_field: str = "text"
    only: frozenset[int] | None = None

    def documents(self) -> Iterator[str]:
        """All documents, in the order of the files, read as they are asked for.

        Raises:
            FragmentError: at the first byte, line or row that cannot be used.
        """
        found = (text for path in self.files for text in _read(path, self.text_field) if text.strip())
        return (text for place, text in enumerate(found) if self.only is None or place in self.only)

    def split(self, fraction: float, salt: str = "") -> tuple[Iterator[str], Iterator[str]]:
        """Two streams (training, held out) that each read the files on their own; see :func:`is_held_out`.

        Raises:
            InvalidOption: the fraction lies outside [0, 1].
            FragmentError: while iterating, as :meth:`documents`.
        """
        is_held_out("", fraction, salt)  # refuses a wrong fraction now rather than at the first document
        return (
            (text for text in self.documents() if not is_held_out(text, fraction, salt)),
            (text for text in self.documents() if is_held_out(text, fraction, salt)),
        )

    def require_documents(self, minimum: int = 2) -> Fragment:
        """Return the fragment if it holds ``minimum`` distinct documents; reads no further than needed.

        Copies count once: a summary (a token histogram, say) of one text, however often repeated, is a
        description of that text.

        Raises:
            FragmentError: there are fewer.
        """
        seen: set[bytes] = set()
        for text in self.documents():
            seen.add(hashlib.sha256(text.encode()).digest())
            if len(seen) >= minimum:
                return self
        raise FragmentError(
            f"fragment of {len(self.files)} file(s)",
            why=f"it holds {len(seen)} distinct document(s) and {minimum} are needed: "
            "a summary of a single document would describe that document",
            mend="Add documents; in a text file, separate documents with a form feed (\\f).",
        )

    def describe(self) -> Description:
        """Count files, documents and bytes by reading everything once."""
        documents = size = 0
        for text in self.documents():
            documents += 1
            size += len(text.encode())
        return Description(len(self.files), documents, size)


def open_fragment(paths: Sequence[str | os.PathLike[str]], *, text_field: str = "text") -> Fragment:
    """Find the files of a fragment and check that each can be opened; their content is read later.

    Directories are walked in order of name, without hidden files. A link inside a directory may point to a
    file in the same directory tree; one that leaves it is refused. A file found twice is read once.

    Args:
        paths: files and directories.
        text_field: the field (JSON lines) or column (Parquet) that holds the text.

    Raises:
        FragmentError: a path is missing, unreadable or of a format that is not read, or there are no files.
        InvalidOption: no path or an empty field name is given.
    """
    if not text_field:
        raise InvalidOption("text field ''", why="it names no field", mend="Give the name of the field of the text.")
    files = found(paths)
    for file in files:
        _check(file)
    return Fragment(files, text_field)


def _check(path: Path) -> None:
    """Refuse a file by its name or kind before its content is read; a pipe would block and is not opened."""
    if (ending := suffix(path)) in _NOT_TEXT:
        mend = "Convert it to .jsonl, .parquet or .txt, or leave it out of the fragment."
        refuse(f"file '{path}'", f"the format {ending} is not read", mend)
    require_readable(path)


def _read(path: Path, field: str) -> Iterator[str]:
    if path.suffix.lower() == ".parquet":
        return _parquet(path, field)
    return _records(path, field) if suffix(path) in _RECORDS else _pieces(path)


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def _chunks(path: Path, *, lines: bool) -> Iterator[bytes]:
    """The bytes of a file, unpacked, by line or in pieces of 1 MiB."""
    done, reason = 0, ""
    try:
        with _open(path) as handle:
            while chunk := handle.readline() if lines else handle.read(_CHUNK):
                yield chunk
                done += len(chunk)
    except (OSError, EOFError, zlib.error) as error:
        reason = unreadable(error)
    if reason:
        refuse(f"file '{path}' after byte {done}", reason, "Check that the file is whole and readable.")


def _pieces(path: Path) -> Iterator[str]:
    """The pieces of a text between form feeds."""
    held: list[str] = []
    for text in _decoded(path):
        head, *rest = text.split("\f")
        held.append(head)
        for piece in rest:
            yield "".join(held)
            held = [piece]
    yield "".join(held)


def _decoded(path: Path) -> Iterator[str]:
    """A file's text in chunks; characters cut by a chunk's end are carried over."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    start = 0  # offset in the file of the first byte that the decoder has not turned into text
    for chunk in _with_end(_chunks(path, lines=False)):
        carried = len(decoder.getstate()[0])
        text, bad = _try_decode(decoder, chunk)
        if bad is not None:
            refuse(f"file '{path}' at byte {start + bad}", "the bytes are not UTF-8 text", _MEND)
        if (nul := chunk.find(b"\0")) >= 0:
            refuse(f"file '{path}' at byte {start + carried + nul}", "a NUL byte: this is not text", _MEND)
        yield text.removeprefix("\ufeff") if start == 0 else text
        start += carried + len(chunk) - len(decoder.getstate()[0])


def _with_end(chunks: Iterator[bytes]) -> Iterator[bytes]:
    yield from chunks
    yield b""


def _try_decode(decoder: codecs.IncrementalDecoder, chunk: bytes) -> tuple[str, int | None]:
    """Text, or where decoding failed counted from the carried bytes; an empty chunk ends the file."""
    try:
        return decoder.decode(chunk, final=not chunk), None
    except UnicodeDecodeError as error:
        return "", error.start


def _records(path: Path, field: str) -> Iterator[str]:
    for number, line in enumerate(_chunks(path, lines=True), start=1):
        if line.strip():
            place = f"file '{path}' line {number}"
            yield _checked(_value(line.removeprefix(codecs.BOM_UTF8), field, place), field, place)


def _value(line: bytes, field: str, place: str) -> object:
    reason = ""
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        reason = "the bytes are not UTF-8 text"
    except (ValueError, RecursionError):
        reason = "the line is not JSON"
    if not reason and not isinstance(record, dict):
        reason = "the line is not a JSON object"
    if reason:
        refuse(place, reason, _MEND)
    if field not in record:
        refuse(place, f"the object has no field '{field}'", "Name the field that holds the text.")
    return record[field]


def _parquet(path: Path, field: str) -> Iterator[str]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        pyarrow = None
    if pyarrow is None:
        refuse(f"file '{path}'", "Parquet needs pyarrow, which is absent", "Install quiltwork[parquet].")
    row, reason = 0, ""
    try:
        with parquet.ParquetFile(path) as table:
            if field not in table.schema_arrow.names:
                refuse(f"file '{path}'", f"it has no column '{field}'", "Name the column that holds the text.")
            for batch in table.iter_batches(batch_size=64, columns=[field], use_threads=False):
                for value in batch.column(0).to_pylist():
                    yield _checked(value, field, f"file '{path}' row {row}")
                    row += 1
    except UnicodeDecodeError:
        reason = "a text is not UTF-8"
    except (OSError, pyarrow.ArrowException) as error:
        reason = f"it is not a whole Parquet file ({type(error).__name__})"
    if reason:
        refuse(f"file '{path}' from row {row}", reason, _MEND)


def _checked(value: object, field: str, place: str) -> str:
    """The value if it is text: a string without NUL and lone surrogates, which UTF-8 cannot hold."""
    if not isinstance(value, str):
        refuse(place, f"the field '{field}' holds {type(value).__name__}, not a string", _MEND)
    if "\0" in value or not _fits_utf8(value):
        refuse(place, f"the field '{field}' holds a NUL or half a surrogate pair: this is not text", _MEND)
    return value


def _fits_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
