"""A directory held against the record of its files, whatever the record says besides.

A record names every other file of its directory with size and SHA-256, and has a digest over all its own fields. To
``check`` costs little: every listed file is there, of the size that it had; documents and router have their SHA-256.
``verify`` hashes everything. Files that the record does not list are no part of the model. They are refused where a
library that loads models might read them (it would prefer model.safetensors to the shards, for one), and else left
alone: they do not travel to a directory that is made from this one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quiltwork.composite.provenance import digest_over
from quiltwork.errors import AlteredCheckpoint, CheckpointError
from quiltwork.files import FileRecord
from quiltwork.models.checkpoint import ROUTER
from quiltwork.models.json_files import read_json
from quiltwork.models.resting import altered, require_intact

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,199}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_READABLE = {".safetensors", ".json", ".bin", ".pt", ".pth", ".py", ".jinja", ".model", ".txt", ".gguf", ".pkl"}
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Listed:
    """What a record lists of its directory.

    Attributes:
        path: the directory.
        record: name of the record's file.
        files: size and digest of every other file, by name.
    """

    path: Path
    record: str
    files: Mapping[str, FileRecord]

    def records(self) -> dict[Path, FileRecord]:
        """The files by path."""
        return {self.path / name: record for name, record in self.files.items()}

    def foreign(self) -> tuple[str, ...]:
        """Sorted names of what lies in the directory and is no part of the model."""
        return tuple(sorted(p.name for p in self.path.iterdir() if p.name not in self.files and p.name != self.record))

    def verify(self) -> None:
        """Hash every file.

        Raises:
            AlteredCheckpoint: one is not what was written; it is named.
        """
        for path, record in self.records().items():
            require_intact(path, record)

    def check(self) -> None:
        """Check what is small; see the module's docstring.

        Raises:
            AlteredCheckpoint: the directory is not as it was written; the file is named.
        """
        for name in self.foreign():
            if not name.startswith(".") and Path(name).suffix.lower() in _READABLE:
                raise AlteredCheckpoint(
                    f"file '{self.path / name}'",
                    why=f"{self.record} does not list it, and a library that loads the model might read it",
                    mend="Move it elsewhere.",
                )
        for path, record in self.records().items():
            _check_file(path, record)
        for name in _indexed(self.path):
            if name not in self.files:
                raise altered(self.path / _INDEX, f"it names {str(name)[:100]!a}, which {self.record} does not list")


def _check_file(path: Path, record: FileRecord) -> None:
    if not path.is_file():
        raise altered(path, "it is not there")
    if path.stat().st_size != record.bytes:
        raise altered(path, f"it holds {path.stat().st_size} bytes, and {record.bytes} were written")
    if path.name == ROUTER or path.suffix != ".safetensors":
        require_intact(path, record)


def require_own_digest(value: Mapping[str, Any], where: Path) -> None:
    """Refuse a record whose digest is not that of its other fields.

    Raises:
        AlteredCheckpoint: it is not.
    """
    try:
        due = digest_over(value)
    except ValueError:  # it holds what no record is written with, a NaN say
        due = None
    if due is None or value.get("digest") != due:
        raise altered(where, "its digest is not that of its other fields: one of them was changed")


def listed_files(value: Mapping[str, Any], where: Path) -> dict[str, FileRecord]:
    """The files that a record lists, by name.

    Raises:
        CheckpointError: it does not say, or says what no record is written with.
    """
    try:
        found = {name: FileRecord(entry["bytes"], entry["digest"]) for name, entry in value["files"].items()}
        for name, record in found.items():
            if not (_NAME.fullmatch(name) and type(record.bytes) is int and _DIGEST.fullmatch(record.digest)):
                raise ValueError(f"file {name[:100]!a}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"it does not say which files the model is made of ({error})"
        raise CheckpointError(f"'{where}'", why=why, mend="Compose the model again.") from error
    return found


def _indexed(path: Path) -> set[Any]:
    """The files that a library would read tensors from, which a hidden one could be."""
    table = read_json(path / _INDEX).get("weight_map") if (path / _INDEX).is_file() else None
    return {name for name in table.values() if isinstance(name, str)} if isinstance(table, dict) else set()
