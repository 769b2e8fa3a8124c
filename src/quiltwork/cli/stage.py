"""What every story of ``quiltwork demo`` stands on: a directory of its own, owners as processes, a comparison."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from quiltwork.errors import QuiltworkError, StorageError
from quiltwork.files import write_file

MARK = "quiltwork-demo"


def clear(out: Path) -> None:
    """Make ``out`` empty; only what a former demo made is removed.

    Raises:
        StorageError: something else is there.
    """
    if out.exists():
        if not (out / MARK).is_file():
            raise StorageError(f"'{out}'", why="it exists and is no former demo's", mend="Choose another --out.")
        shutil.rmtree(out)
    write_file(out / MARK, "Made by `quiltwork demo`, which may remove this directory.\n")


def run_owner(arguments: Sequence[str], name: str, threads: int) -> None:
    """Run a quiltwork command as a process of its own, its notes passed on as they come.

    Raises:
        QuiltworkError: it failed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "quiltwork", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("look at it"):
            continue  # the place it names is left in a moment
        shown = line.rstrip() if line.startswith(name) else f"{name}: {line.rstrip()}"
        print(f"         {shown}", file=sys.stderr, flush=True)
    if process.wait():
        raise QuiltworkError(
            f"owner '{name}'", why="its process failed; its own words stand above", mend="Mend that and run again."
        )


def hand_over(outbox: Path, name: str, contributions: Path) -> None:
    """Move what an owner's process wrote from the place of its own to where contributions are gathered."""
    contributions.mkdir(exist_ok=True)
    (outbox / name).rename(contributions / name)
    shutil.rmtree(outbox)


@contextmanager
def scratch(parent: Path) -> Iterator[Path]:
    """A directory for the while of a comparison."""
    path = parent / f"scratch-{os.getpid()}-{threading.get_ident()}"
    path.mkdir()
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def same_bytes(one: Path, other: Path) -> bool:
    """True if two directories hold the same files with the same bytes, however deep."""
    names = _files(one)
    return names == _files(other) and all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def _files(root: Path) -> list[Path]:
    return sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
