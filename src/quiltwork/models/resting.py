"""Shards that are files already.

A shard of a new checkpoint is the same file as one on disk if every tensor of it lies there, at the place that the new
header would give it, under that very header::

    same(table, path)  <=>  header(table) == first bytes of path,  place of each tensor == (path, header's offset)

Nothing is asked of where the table comes from: a composite that lost a party or won one finds the files of all whom
that leaves as they were. Such a file is linked, and its record goes with it unread, so that a byte that was changed in
it is found wherever the file went. What cannot be linked is read, and held against its record first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quiltwork.errors import AlteredCheckpoint
from quiltwork.files import FileRecord, place_same, record_of
from quiltwork.models.sources import Sources
from quiltwork.streaming import layout


def shard_header(table: Sources) -> bytes:
    """The bytes before the data of a shard."""
    return layout.build({name: (source.dtype, source.shape) for name, source in table.items()})


def resting_file(table: Sources) -> Path | None:
    """The file that a shard of these tensors would be; None if there is none."""
    files = {None if source.place is None else source.place.path for source in table.values()}
    if len(files) != 1 or (path := files.pop()) is None:
        return None
    header = shard_header(table)
    spans = layout.layout({name: (source.dtype, source.shape) for name, source in table.items()})
    for name, source in table.items():
        if source.place is None or source.place.offset != len(header) + spans[name].begin:
            return None
    with open(path, "rb") as file:
        return path if file.read(len(header)) == header else None


def require_intact(path: Path, record: FileRecord) -> None:
    """Hold a file against its record, in full.

    Raises:
        AlteredCheckpoint: it is another file, or none.
    """
    try:
        same = path.stat().st_size == record.bytes and record_of(path) == record
    except OSError as error:
        raise altered(path, f"it cannot be read ({error.strerror or error})") from error
    if not same:
        raise altered(path, "its bytes are not those that were written there")


def altered(path: Path, why: str) -> AlteredCheckpoint:
    """The refusal of a file of a composed directory."""
    return AlteredCheckpoint(f"file '{path}'", why=why, mend="Compose the model again, or fetch the directory again.")


@dataclass
class Resting:
    """Takes shards from files of known record; see the module's docstring. It is a ``models.checkpoint.Take``.

    Attributes:
        records: the files.
        copy: write independent copies instead of links.
    """

    records: Mapping[Path, FileRecord]
    copy: bool = False
    _intact: set[Path] = field(default_factory=set)

    def __call__(self, target: Path, table: Sources) -> FileRecord | None:
        """Link the shard's file to ``target``; None if it must be written, from files that are then intact.

        Raises:
            AlteredCheckpoint: a file that it must be written from was changed.
        """
        path = resting_file(table)
        record = self.records.get(path) if path is not None else None
        if record is None or self.copy:
            self._require_intact(target.name, table)
        if path is None or record is None:
            return None
        place_same(path, target, copy=self.copy)
        return record

    def _require_intact(self, name: str, table: Sources) -> None:
        """Check whatever the tensors lie in, and the shard's namesake, from which they may be derived."""
        read = {source.place.path for source in table.values() if source.place is not None}
        read |= {path for path in self.records if path.name == name}
        for path in sorted((read & self.records.keys()) - self._intact):
            require_intact(path, self.records[path])
            self._intact.add(path)
