"""A stranger's directory, opened without following anything.

Names are resolved once, relative to an open directory, and no link is ever followed: what was checked is
what is read, even if someone renames things meanwhile. Only regular files are opened for reading; a pipe, a
device or a socket is refused by name before it can block.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from quiltwork.contribution.canonical import shown
from quiltwork.errors import AlteredContribution, MalformedContribution

_MOST_ENTRIES = 64
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_MEND = "Give the directory that the party wrote, as it was written."


@dataclass(frozen=True)
class Directory:
    """An open directory.

    Attributes:
        path: where it was, for messages.
        descriptor: its file descriptor; files are opened relative to it.
    """

    path: Path
    descriptor: int

    def names(self) -> list[str]:
        """Names of all entries, sorted.

        Raises:
            MalformedContribution: the directory cannot be listed, or holds more than 64 entries.
        """
        found: list[str] = []
        try:
            with os.scandir(self.descriptor) as entries:
                for entry in entries:
                    found.append(entry.name)
                    if len(found) > _MOST_ENTRIES:
                        raise refusal(f"directory '{self.path}'", f"it holds more than {_MOST_ENTRIES} entries")
        except OSError as error:
            raise refusal(f"directory '{self.path}'", _reason("listed", error)) from error
        return sorted(found)

    def kind(self, name: str) -> str:
        """What an entry is, in words: ``"a regular file"``, ``"a symbolic link"``, ..."""
        try:
            mode = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False).st_mode
        except (OSError, ValueError) as error:
            raise refusal(f"file {shown(name)}", _reason("examined", error)) from error
        return "a regular file" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "not a regular file")

    @contextmanager
    def open(self, name: str) -> Iterator[tuple[BinaryIO, int]]:
        """Open a regular file and give it with its size in bytes.

        Raises:
            MalformedContribution: it is missing, no regular file, or cannot be opened or read.
        """
        kind = self.kind(name)
        if kind != "a regular file":
            raise refusal(f"file {shown(name)}", f"it is {kind}, and a contribution holds regular files only")
        try:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            with os.fdopen(os.open(name, flags, dir_fd=self.descriptor), "rb") as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode):
                    raise refusal(f"file {shown(name)}", "it is no longer a regular file")
                yield file, status.st_size
        except OSError as error:
            raise refusal(f"file {shown(name)}", _reason("read", error)) from error

    def read(self, name: str, most: int) -> bytes:
        """The whole of a file of at most ``most`` bytes; a larger one is refused before it is read."""
        with self.open(name) as (file, size):
            if size > most:
                raise refusal(f"file {shown(name)}", f"it holds {size} bytes, and the limit is {most}")
            data = file.read(size + 1)
        if len(data) != size:
            raise AlteredContribution(
                f"file {shown(name)}",
                why="its size changed while it was read",
                mend="Read it again when nothing writes to it.",
            )
        return data


@contextmanager
def open_directory(path: str | os.PathLike[str]) -> Iterator[Directory]:
    """Open a directory that is not a symbolic link (its parents may be).

    Raises:
        MalformedContribution: it is missing, no directory, or cannot be opened.
    """
    path = Path(path)
    what = f"contribution '{path}'"
    try:
        if path.is_symlink():
            mend = "Give the directory itself, to which the link points."
            raise MalformedContribution(what, why="it is a symbolic link", mend=mend)
        if path.exists() and not path.is_dir():
            raise refusal(what, "it is not a directory")
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise refusal(what, _reason("opened", error)) from error
    try:
        yield Directory(path, descriptor)
    finally:
        os.close(descriptor)


def refusal(what: str, why: str) -> MalformedContribution:
    """A part of the directory is not what the format allows."""
    return MalformedContribution(what, why=why, mend=_MEND)


def _reason(verb: str, error: OSError | ValueError) -> str:
    detail = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"it cannot be {verb} ({detail.lower()})"
