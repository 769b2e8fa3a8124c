"""A pool: shards kept by what they hold, so that composing again links them instead of writing them.

A shard's name in the pool is the digest of its header and of its tensors' identities::

    key = SHA-256( header, then for each tensor in its order: name, identity )

where an identity is the digest of a contribution's tensor, or the base's digest and the tensor's name in it. The header
holds names, dtypes and shapes; so equal keys are equal files, whatever they are composed into. A tensor that has no
identity, since it was computed from others, is written each time.

What enters the pool was checked in full: the contribution when it was read, the bytes again as they were copied. The
pool remembers which contributions were, by digest, and the digest of a base by the size, time and place of its files.
So with a warm pool none of their bulk is read; every tensor that is read none the less is hashed again. An entry is
held against its recorded size whenever it is used; its recorded digest goes into whatever it is linked to, and shows
there (``quiltwork verify``) whether the entry was damaged.

Who may write to an entry may write to all that is linked to it. So entries are read-only, and a pool that somebody else
owns or may write to is refused, and so is an entry of that kind.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from quiltwork.errors import InvalidOption
from quiltwork.files import FileRecord, place_same, publish_permissions, storage_error, write_file
from quiltwork.models.checkpoint import write_shard
from quiltwork.models.resting import altered, shard_header
from quiltwork.models.sources import Sources

if TYPE_CHECKING:
    from quiltwork.models.base import Base

MARK = "quiltwork-pool"
_SHARDS, _READ, _BASES = "shards", "contributions", "bases"


def open_pool(path: Path) -> Pool:
    """The pool in a directory, which is made if there is none.

    Raises:
        InvalidOption: the directory holds something else, or somebody else owns it or may write to it.
        StorageError: the file system refuses.
    """
    if path.exists() and not (path / MARK).is_file() and (not path.is_dir() or any(path.iterdir())):
        raise InvalidOption(f"pool '{path}'", why="it holds something else", mend="Name a new or an empty directory.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for place in (path, *(path / room for room in (_SHARDS, _READ, _BASES))):
            place.mkdir(mode=0o755, exist_ok=True)
            if why := _others(place):
                raise InvalidOption(
                    f"pool '{place}'", why=f"{why}: whatever is linked from it would be theirs", mend=_OWN
                )
    except OSError as error:
        raise storage_error(path, error) from error
    if not (path / MARK).is_file():
        text = "Shards of composed models, kept by quiltwork; it may be removed as a whole.\n"
        write_file(path / MARK, text, private=True)
    return Pool(path)


_OWN = "Name a directory of your own that nobody else may write to: chmod go-w POOL, or a new one."


def _others(path: Path) -> str:
    """Who besides the user may change a file or a directory, in words; empty if nobody, or if the system cannot say.

    Access lists beyond the mode are not looked at.
    """
    if not hasattr(os, "geteuid"):
        return ""
    status = path.stat()
    if status.st_uid != os.geteuid():
        return f"it belongs to another user (number {status.st_uid})"
    return f"others than you may write to it (mode {stat.S_IMODE(status.st_mode):o})" if status.st_mode & 0o022 else ""


def shard_key(table: Sources) -> str | None:
    """The name of a shard in a pool, hexadecimal; None if a tensor of it has no identity."""
    found = hashlib.sha256(shard_header(table))
    for name, source in sorted(table.items()):
        if source.identity is None:
            return None
        found.update(f"{name}\0{source.identity}\0".encode())
    return found.hexdigest()


@dataclass(frozen=True)
class Pool:
    """A directory of shards; it is a ``models.checkpoint.Take``.

    Attributes:
        path: the directory.
    """

    path: Path

    def __call__(self, target: Path, table: Sources) -> FileRecord | None:
        """Make ``target`` of the pool's entry, which is written first if there is none; None if it cannot be one.

        Raises:
            AlteredCheckpoint: the entry is not of the size that it was written with.
            InvalidOption: somebody else owns it or may write to it.
        """
        key = shard_key(table)
        if key is None:
            return None
        entry = self.path / _SHARDS / f"{key}.safetensors"
        record = self._record(entry) or self._entered(entry, table)
        place_same(entry, target)
        return record

    def _record(self, entry: Path) -> FileRecord | None:
        """The record of an entry; None if there is none, or no shard beside it."""
        try:
            value = json.loads(entry.with_suffix(".json").read_bytes())
            record = FileRecord(int(value["bytes"]), str(value["digest"]))
            size = entry.stat().st_size
            others = _others(entry) or _others(entry.with_suffix(".json"))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise altered(entry.with_suffix(".json"), "it is no record of a shard") from error
        if others:
            raise InvalidOption(f"entry '{entry}' of the pool", why=others, mend="Delete the pool, and compose again.")
        if size != record.bytes:
            raise altered(entry, f"it holds {size} bytes, and {record.bytes} were written")
        return record

    def _entered(self, entry: Path, table: Sources) -> FileRecord:
        """The record of an entry that somebody makes: this process, or one that was before it at the door."""
        with _alone(self.path / MARK):
            # nobody is writing now, so what is half-written is of someone who died
            for left in (self.path / _SHARDS).glob(".*.partial"):
                left.unlink()
            return self._record(entry) or _enter(entry, table)

    def knows(self, digest: str) -> bool:
        """Whether a contribution of this digest was read in full before."""
        return (self.path / _READ / digest.removeprefix("sha256:")).is_file()

    def remember(self, digest: str) -> None:
        """Say that a contribution of this digest was read in full."""
        write_file(self.path / _READ / digest.removeprefix("sha256:"), b"", private=True)

    def base(self, base: Base) -> Base:
        """The base with its digest known: as remembered if its files are what they were, else read and remembered."""
        stamp = hashlib.sha256("\n".join(_stamps(base.path)).encode()).hexdigest()
        kept = self.path / _BASES / stamp
        if not kept.is_file():
            write_file(kept, base.digest, private=True)
        return replace(base, known=kept.read_text())


def _enter(entry: Path, table: Sources) -> FileRecord:
    partial = entry.with_name(f".{entry.stem}.partial")
    try:
        record = write_shard(partial, table)
        publish_permissions(partial, read_only="*")
        partial.replace(entry)
    finally:
        partial.unlink(missing_ok=True)
    # the record last: a shard without one is no entry
    write_file(entry.with_suffix(".json"), json.dumps(vars(record)), private=True)
    return record


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a file's lock, where the system has any; a process that dies lets go of it."""
    with open(path, "rb") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        except (ImportError, OSError):  # no locks here: two writers would write the same bytes
            pass
        yield


def _stamps(directory: Path) -> list[str]:
    """Each file of a directory with all that changes when it is written to."""
    found = []
    for path in sorted(directory.iterdir()):
        if path.suffix in (".json", ".safetensors", ".jinja"):
            status = path.stat()
            kept = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            found.append(f"{path.name} {kept}")
    return found
