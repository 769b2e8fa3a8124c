"""Writing so that nothing half-written is ever left behind.

A directory is built under a temporary name beside its target and renamed when complete; a file likewise. Whatever
interrupts the writer (an exception, a full disk, Ctrl-C) removes the temporary name and leaves the target as it was.
A writer that is killed can remove nothing. It holds a lock on its temporary directory while it lives, so the next
writer of the same target knows what is dead, removes it, and puts back what was about to be replaced.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from quiltwork.errors import StorageError

_REASONS = {
    errno.ENOSPC: (
        "no space is left on the device",
        "Free some space or choose another target, then run again.",
    ),
    errno.EDQUOT: ("the disk quota is used up", "Free some space or choose another target, then run again."),
    errno.EACCES: ("writing there is not permitted", "Choose a target that you may write to."),
    errno.EPERM: ("writing there is not permitted", "Choose a target that you may write to."),
    errno.EROFS: ("the file system is read-only", "Choose a target that you may write to."),
    errno.EEXIST: ("a file stands where a directory is needed", "Choose another target."),
    errno.ENOTDIR: ("a part of the path is not a directory", "Choose another target."),
    errno.EFBIG: ("the file system does not take a file of this size", "Choose another target."),
}


_Bytes: TypeAlias = bytes


@dataclass(frozen=True)
class FileRecord:
    """A file as it was written: its size, and ``sha256:`` with the SHA-256 of all its bytes in hexadecimal."""

    bytes: int
    digest: str

    @classmethod
    def of(cls, data: _Bytes) -> FileRecord:
        """The record of a file that holds ``data``."""
        return cls(len(data), "sha256:" + hashlib.sha256(data).hexdigest())


def record_of(path: Path) -> FileRecord:
    """The record of a file as it is now; reads all of it. Errors are the operating system's."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256")
        return FileRecord(file.tell(), "sha256:" + found.hexdigest())


def storage_error(path: Path, error: OSError) -> StorageError:
    """The refusal for an operating-system error met while writing ``path``."""
    why, mend = _REASONS.get(error.errno or 0, (error.strerror or str(error), "Choose another target."))
    return StorageError(f"writing '{path}'", why=why, mend=mend)


def _reported(error: Exception) -> OSError | None:
    """The operating-system error that a native writer (safetensors) reports as text, or None."""
    code = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(code[1]), os.strerror(int(code[1]))) if code else None


def _ordinary_mode(directory: bool) -> int:
    """The mode a plain ``open`` or ``mkdir`` would give under the caller's umask."""
    mask = os.umask(0)
    os.umask(mask)
    return (0o777 if directory else 0o666) & ~mask


def publish_permissions(root: Path, *, private: bool = False, read_only: str | None = None) -> None:
    """Give ``root`` and what is below it ordinary permissions (safetensors writes files with mode 0600).

    A file that has another name elsewhere keeps its mode, which is not ours to change there.

    Args:
        root: a file or a directory.
        private: withhold all rights from group and others.
        read_only: nobody may write to a file whose name matches this pattern.
    """
    for path in [root, *root.rglob("*")]:
        if not path.is_symlink() and (path.is_dir() or path.stat().st_nlink == 1):
            kept = read_only is not None and path.is_file() and path.match(read_only)
            path.chmod(_ordinary_mode(path.is_dir()) & (0o700 if private else 0o777) & ~(0o222 if kept else 0))


def require_absent(target: Path, overwrite: bool) -> None:
    """Refuse a target that exists, before any work for it is done. What killed writers of it left is cleared first.

    Raises:
        StorageError: it does, and overwriting was not asked for.
    """
    _clear_leftovers(target)
    if (target.exists() or target.is_symlink()) and not overwrite:
        raise StorageError(
            f"target '{target}'",
            why="something is already there, and quiltwork does not overwrite unasked",
            mend="Choose another target, remove it, or ask for overwriting.",
        )


@contextmanager
def new_directory(
    target: str | os.PathLike[str], *, overwrite: bool = False, private: bool = False, read_only: str | None = None
) -> Iterator[Path]:
    """Yield a temporary directory that becomes ``target`` when the block ends without an error.

    Args:
        target: the directory to make; its parents are made as needed.
        overwrite: replace an existing directory (only after the new one is complete).
        private: only the user who writes it may read it, from the first byte on.
        read_only: files whose names match this pattern lose the right to be written, once complete.

    Raises:
        StorageError: the target exists, or the file system refuses.
    """
    target = Path(target)
    require_absent(target, overwrite)
    partial, lock = None, None
    try:
        partial, lock = _partial_directory(target, 0o700 if private else 0o777)
        yield partial
        publish_permissions(partial, private=private, read_only=read_only)
        _replace_directory(partial, target)
    except OSError as error:
        raise storage_error(target, error) from error
    except Exception as error:
        if (reported := _reported(error)) is None:
            raise
        raise storage_error(target, reported) from error
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _partial_directory(target: Path, mode: int) -> tuple[Path, int | None]:
    """A new temporary directory beside the target, and the lock that says that its writer lives."""
    while True:
        partial = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
        partial.mkdir(mode=mode, parents=True)
        try:
            lock = _lock(partial)
        except (BlockingIOError, FileNotFoundError):  # another writer takes it for dead, as it was not locked yet
            continue
        if lock is None or partial.is_dir():
            return partial, lock
        os.close(lock)


def _lock(directory: Path) -> int | None:
    """An open descriptor that locks a directory until it is closed or its process ends; None where there are no locks.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    try:
        import fcntl
    except ImportError:  # no such call outside Unix
        return None
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:  # a file system without locks
        os.close(descriptor)
        return None
    return descriptor


def _clear_leftovers(target: Path) -> None:
    """Remove what killed writers of ``target`` left beside it; put the target back if one died while replacing it."""
    with suppress(OSError):
        for left in sorted(target.parent.iterdir()):
            token = re.fullmatch(rf"\.{re.escape(target.name)}\.([0-9a-f]{{8}})\.(partial|retired)", left.name)
            if token is None or left.is_symlink():
                continue
            if token[2] == "partial" and left.is_dir():
                _remove_dead(left)
            elif token[2] == "retired" and not left.with_name(f".{target.name}.{token[1]}.partial").exists():
                _settle_retired(left, target)


def _remove_dead(partial: Path) -> None:
    try:
        lock = _lock(partial)
    except OSError:  # its writer lives, or it is gone
        return
    if lock is not None:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def _settle_retired(retired: Path, target: Path) -> None:
    """The old content of a target: put back where nothing stands in its place, else removed."""
    if not target.exists() and not target.is_symlink():
        retired.rename(target)
    elif retired.is_dir():
        shutil.rmtree(retired, ignore_errors=True)
    else:
        retired.unlink()


def _replace_directory(partial: Path, target: Path) -> None:
    if not target.exists():
        partial.rename(target)
        return
    retired = partial.with_suffix(".retired")
    target.rename(retired)
    try:
        partial.rename(target)
    except BaseException:
        retired.rename(target)
        raise
    if retired.is_dir() and not retired.is_symlink():
        shutil.rmtree(retired, ignore_errors=True)
    else:
        retired.unlink()


def place_same(source: Path, target: Path, *, copy: bool = False) -> None:
    """Make ``target`` a file of the same bytes as ``source``, at no cost where the file system allows that.

    A clone that shares its blocks (FICLONE: btrfs, XFS) if there is one to be had, else a hard link, else a copy. Two
    names of a hard link are one file: who writes to one writes to the other. So only what nobody may write to is
    linked.

    Args:
        source: a file, or a link to one.
        target: must not exist.
        copy: neither clone nor link.

    Raises:
        OSError: the file system refuses.
    """
    source = source.resolve()
    if not copy and _cloned(source, target):
        return
    if not copy and not source.stat().st_mode & 0o222:
        try:
            os.link(source, target)
            return
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
    shutil.copyfile(source, target)


_NO_LINK = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}
_FICLONE = 0x40049409


def _cloned(source: Path, target: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # no such call outside Unix
        return False
    with open(source, "rb") as one, open(target, "xb") as other:
        try:
            fcntl.ioctl(other.fileno(), _FICLONE, one.fileno())
            return True
        except OSError:
            target.unlink()
            return False


def write_file(target: str | os.PathLike[str], data: bytes | str, *, private: bool = False) -> Path:
    """Write ``data`` to ``target`` by way of a temporary name; an existing file is replaced whole.

    Args:
        target: its parents are made as needed.
        data: text is written as UTF-8.
        private: only the user who writes it may read it, from the first byte on.

    Raises:
        StorageError: the file system refuses.
    """
    target = Path(target)
    partial = target.parent / f".{target.name}.{secrets.token_hex(4)}.partial"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.touch(mode=0o600)
        partial.write_bytes(data.encode() if isinstance(data, str) else data)
        if not private:
            partial.chmod(_ordinary_mode(directory=False))
        partial.replace(target)
    except OSError as error:
        raise storage_error(target, error) from error
    finally:
        # it may have no place to be in either, and the error above says so
        with suppress(OSError):
            partial.unlink()
    return target
