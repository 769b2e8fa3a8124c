"""A composed language model's directory, held against what its quiltwork.json says of it.

Opening one costs little and checks what is small::

    quiltwork.json           its digest over its own fields
    every file it lists      is there, of the size that it had
    documents, router        their SHA-256
    shards of tensors        their headers, by whoever reads them

``verify`` hashes everything (`quiltwork.composite.listed` has both).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quiltwork.composite.listed import Listed, listed_files, require_own_digest
from quiltwork.composite.provenance import PROVENANCE, Entry, Provenance, read_provenance
from quiltwork.errors import CheckpointError
from quiltwork.files import FileRecord
from quiltwork.models.json_files import read_json

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
        return self._listed.records()

    def verify(self) -> None:
        """Hash every file.

        Raises:
            AlteredCheckpoint: one is not what was written; it is named.
        """
        self._listed.verify()

    def foreign(self) -> tuple[str, ...]:
        """Sorted names of what lies in the directory and is no part of the model."""
        return self._listed.foreign()

    @property
    def _listed(self) -> Listed:
        return Listed(self.path, PROVENANCE, self.files)


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
    require_own_digest(value, where)
    written = Written(path, provenance, listed_files(value, where))
    _check(written)
    return written


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


def _check(written: Written) -> None:
    Listed(written.path, PROVENANCE, written.files).check()
