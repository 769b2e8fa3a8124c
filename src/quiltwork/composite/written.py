"""A composed language model's directory, held against what its quiltwork.json says of it.

Opening one costs little and checks what is small::

    quiltwork.json           its digest over its own fields
    every file it lists      is there, of the size that it had
    documents, router        their SHA-256
    shards of tensors        their headers, by whoever reads them

``verify`` hashes everything. Files that quiltwork.json does not list are no part of the model. They are refused where a
library that loads models might read them (it would prefer model.safetensors to the shards, for one), and else left
alone: they do not travel to a directory that is made from this one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quiltwork.composite.provenance import PROVENANCE, Entry, Provenance, digest_over, read_provenance
from quiltwork.errors import AlteredCheckpoint, CheckpointError
from quiltwork.files import FileRecord
from quiltwork.models.base import read_json
from quiltwork.models.checkpoint import ROUTER
from quiltwork.models.resting import altered, require_intact

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_READABLE = {".safetensors", ".json", ".bin", ".pt", ".pth", ".py", ".jinja", ".model", ".txt", ".gguf", ".pkl"}
_INDEX = "model.safetensors.index.json"
MOST_BYTES = 2**24


@dataclass(frozen=True)
class Written:
    """What was written in a directory.

    Attributes:
        path: the directory.
        provenance: what the model is made of.
        files: the record of every file but quiltwork.json, by name.
    """

    path: Path
    provenance: Provenance
    files: Mapping[str, FileRecord]

    def records(self) -> dict[Path, FileRecord]:
        """The records by path."""
        return {self.path / name: record for name, record in self.files.items()}

    def verify(self) -> None:
        """Hash every file.

        Raises:
            AlteredCheckpoint: one is not what was written; it is named.
        """
        for path, record in self.records().items():
            require_intact(path, record)

    def foreign(self) -> tuple[str, ...]:
        """Sorted names of what lies in the directory and is no part of the model."""
        return tuple(sorted(p.name for p in self.path.iterdir() if p.name not in self.files and p.name != PROVENANCE))


def read_written(path: Path) -> Written:
    """Read quiltwork.json of a composed language model and check what is small; see the module's docstring.

    Raises:
        CheckpointError: it is not the record of a language model.
        AlteredCheckpoint: the directory is not as it was written; the file is named.
    """
    where = path / PROVENANCE
    if where.is_file() and where.stat().st_size > MOST_BYTES:
        raise CheckpointError(f"'{where}'", why=f"it holds more than {MOST_BYTES} bytes", mend="Compose it again.")
    provenance = read_provenance(path)
    value = read_json(where)
    if value.get("digest") != _digest(value):
        raise altered(where, "its digest is not that of its other fields: one of them was changed")
    written = Written(path, provenance, _files(value, where))
    _check(written)
    return written


def _digest(value: Mapping[str, Any]) -> str | None:
    """The digest of a record's fields; None where they hold what no record is written with, a NaN say."""
    try:
        return digest_over(value)
    except ValueError:
        return None


def inherited_from(base: Path) -> tuple[Entry, ...]:
    """What is in a base, sorted: nothing, unless it is a composite itself.

    Raises:
        CheckpointError: it is one, and does not say of what.
        AlteredCheckpoint: it is one, and is not as it was written.
    """
    if not (base / PROVENANCE).is_file():
        return ()
    provenance = read_written(base).provenance
    found = {*provenance.contributions, *provenance.inherited}
    return tuple(sorted(found, key=lambda entry: (entry.party, entry.digest)))


def _files(value: Mapping[str, Any], where: Path) -> dict[str, FileRecord]:
    try:
        found = {name: FileRecord(entry["bytes"], entry["digest"]) for name, entry in value["files"].items()}
        for name, record in found.items():
            if not (_NAME.fullmatch(name) and type(record.bytes) is int and _DIGEST.fullmatch(record.digest)):
                raise ValueError(f"file {name[:100]!a}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"it does not say which files the model is made of ({error})"
        raise CheckpointError(f"'{where}'", why=why, mend="Compose the model again.") from error
    return found


def _check(written: Written) -> None:
    for name in written.foreign():
        if not name.startswith(".") and Path(name).suffix.lower() in _READABLE:
            raise AlteredCheckpoint(
                f"file '{written.path / name}'",
                why=f"{PROVENANCE} does not list it, and a library that loads the model might read it",
                mend="Move it elsewhere.",
            )
    for name in _indexed(written.path):
        if name not in written.files:
            raise altered(written.path / _INDEX, f"it names {str(name)[:100]!a}, which {PROVENANCE} does not list")
    for path, record in written.records().items():
        if not path.is_file():
            raise altered(path, "it is not there")
        if path.stat().st_size != record.bytes:
            raise altered(path, f"it holds {path.stat().st_size} bytes, and {record.bytes} were written")
        if path.name == ROUTER or path.suffix != ".safetensors":
            require_intact(path, record)


def _indexed(path: Path) -> set[Any]:
    """The files that a library would read tensors from, which a hidden one could be."""
    table = read_json(path / _INDEX).get("weight_map") if (path / _INDEX).is_file() else None
    return {name for name in table.values() if isinstance(name, str)} if isinstance(table, dict) else set()
