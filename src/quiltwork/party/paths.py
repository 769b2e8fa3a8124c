"""Finding the files of a fragment, and refusing what cannot be one, before any content is read.

    found(paths) = (f_1, ..., f_n)      each file once, directories in order of name, hidden files left out

A link inside a directory may point to a file in the same directory tree; one that leaves it is refused. A refusal
never has an original exception as its cause: decoding errors carry the text they failed on, and an error message
leaves the party more easily than anything else.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from quiltwork.errors import FragmentError, InvalidOption


def found(paths: Sequence[str | os.PathLike[str]]) -> tuple[Path, ...]:
    """The files that ``paths`` name, each once; whether they can be opened is not tried yet.

    Args:
        paths: files and directories.

    Raises:
        FragmentError: a path is missing or unreadable, a directory holds no files, or a link leaves it.
        InvalidOption: no path is given.
    """
    if isinstance(paths, str | bytes | os.PathLike) or not paths:
        raise InvalidOption("fragment paths", why="a list of at least one path is expected", mend="Give [path].")
    return tuple({resolved(file): None for path in paths for file in _files(Path(path))})


def resolved(path: Path) -> Path:
    """The real path; unlike ``Path.resolve``, no exception for a link to itself."""
    return Path(os.path.realpath(path))


def _files(path: Path) -> list[Path]:
    if not os.path.lexists(path):
        refuse(f"fragment path '{path}'", "no such file or directory is visible to this user", "Correct the path.")
    if not os.path.isdir(path):
        return [path]
    root = resolved(path)
    files = list(_walk(root, root))
    if not files:
        refuse(f"fragment directory '{path}'", "it holds no files that are not hidden", "Name another directory.")
    return files


def _walk(directory: Path, root: Path) -> Iterator[Path]:
    """The files below ``directory``; a linked directory below ``root`` is met under its own name."""
    try:
        names = sorted(os.listdir(directory))
    except OSError as error:
        refuse(f"fragment directory '{directory}'", unreadable(error), "Make it readable for this user.")
    for path in (directory / name for name in names if not name.startswith(".")):
        if path.is_symlink() and not resolved(path).is_relative_to(root):
            refuse(f"link '{path}'", "it leaves the fragment's directory", "Name its target as a path.")
        if not os.path.isdir(path):
            yield path
        elif not path.is_symlink():
            yield from _walk(path, root)


def require_readable(path: Path) -> None:
    """Refuse what is no regular file or cannot be opened; a pipe would block and is not opened."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            refuse(f"file '{path}'", "it is not a regular file", "Name regular files and directories.")
        with path.open("rb"):
            pass
    except OSError as error:
        refuse(f"file '{path}'", unreadable(error), "Make it readable for this user.")


def suffix(path: Path) -> str:
    """The suffix that says the format, in lower case and without a final ``.gz``.

    >>> suffix(Path("a/B.CSV.gz"))
    '.csv'
    """
    return Path(path.name.lower().removesuffix(".gz")).suffix


def unreadable(error: BaseException) -> str:
    """Why a file cannot be read, in words that hold nothing of its content."""
    if isinstance(error, OSError) and error.strerror:
        return f"it cannot be read ({error.strerror})"
    return "it cannot be unpacked (damaged or cut short)"


def refuse(what: str, why: str, mend: str) -> NoReturn:
    """Raise a FragmentError without a cause."""
    raise FragmentError(what, why=why, mend=mend) from None
