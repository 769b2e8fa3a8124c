"""One trial: spoil a specimen, lay it out, read it, and hold what happened against what had to happen.

A reader fails a trial where it

    accepts    what the oracle says must be refused, or hands out other bytes than the file's
    refuses    an untouched specimen
    differs    when it checks tensors as they are used, as `compose` and `add` do, and not all at once
    raises     anything but a `ContributionError`, out of memory included
    acts       writes, unpickles, starts a program, opens a connection
    lingers    longer than the limit of CPU time
    grows      beyond the limit of memory

Trials are numbered; a seed and a number repeat one.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import resource
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hostile_folder import Folder, load, put
from hostile_mutations import spoil
from hostile_oracle import must_refuse

from quiltwork.contribution import store
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import ContributionError

MAX_BYTES = 2**26
MOST_SECONDS = 10.0
MOST_GROWTH = 2**28
"""Bytes of memory that reading one directory may take beyond what the process had before."""


@dataclass(frozen=True)
class Outcome:
    """What one trial came to; ``failure`` is None where all went as it must."""

    number: int
    specimen: str
    families: str
    accepted: bool
    error: str
    seconds: float
    growth: int
    failure: str | None = None


@dataclass
class Watch:
    """Notes what the process does while a stranger's bytes are read. An audit hook cannot be taken out again."""

    acts: list[str] = field(default_factory=list)
    armed: bool = False

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        if self.armed and _acts(event, args):
            self.acts.append(f"{event} {args[:2]!a}")

    @contextmanager
    def on(self) -> Iterator[None]:
        self.acts.clear()
        self.armed = True
        try:
            yield
        finally:
            self.armed = False


_ACTS = (
    "pickle.find_class", "subprocess.Popen", "socket.connect", "socket.bind", "os.rename", "os.remove", "os.rmdir",
    "os.mkdir", "os.truncate", "os.chmod", "os.chown", "os.link", "os.symlink", "shutil.", "os.system", "os.exec",
)  # fmt: skip


def _acts(event: str, args: tuple[Any, ...]) -> bool:
    if event == "open":
        flags = args[2] if isinstance(args[2], int) else 0
        writes = isinstance(args[1], str) and set(args[1]) & set("wax+")
        return bool(writes or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return event.startswith(_ACTS)


WATCH = Watch()
sys.addaudithook(WATCH.hook)


class TooSlow(BaseException):
    """Beyond the limit of CPU time; no `Exception`, so that no reader catches it."""


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """At most so much CPU time, and ten times as much by the clock (a pipe that blocks takes none)."""

    def stop(number: int, frame: object) -> None:
        raise TooSlow

    for kind in (signal.SIGVTALRM, signal.SIGALRM):
        signal.signal(kind, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


class Range:
    """Specimens in memory, and a place to lay spoiled ones out."""

    def __init__(self, specimens: Mapping[str, Path], place: Path, seed: int) -> None:
        self.folders: dict[str, Folder] = {name: load(path) for name, path in specimens.items()}
        self.place = place
        # links lead here, on the same disk
        self.outside = place / "outside.json"
        shutil.copy(next(iter(specimens.values())) / "contribution.json", self.outside)
        self.seed = seed

    def spoiled(self, number: int) -> tuple[str, str, Folder]:
        """Specimen, families and folder of a trial."""
        rng = random.Random(f"{self.seed}-{number}")
        name = rng.choice(sorted(self.folders))
        families, folder = spoil(rng, self.folders[name], list(self.folders.values()))
        return name, families, folder

    def trial(self, number: int) -> Outcome:
        name, families, folder = self.spoiled(number)
        path = self.place / "x"
        shutil.rmtree(path, ignore_errors=True)
        put(folder, path, self.outside)
        before = _state(path)
        memory, began = Memory(), time.process_time()
        found, error, failure = _read(path)
        late, _, later = _read_as_used(path)
        seconds, growth = time.process_time() - began, memory.growth()
        failure = failure or later or self._judge(path, folder, found) or _judge_late(path, found, late)
        failure = failure or _unchanged(before, path)
        if failure is None and growth > MOST_GROWTH:
            failure = f"took {growth} bytes of memory"
        return Outcome(number, name, families, found is not None, error, seconds, growth, failure)

    def _judge(self, path: Path, folder: Folder, found: Contribution | None) -> str | None:
        if found is None:
            sound = folder in self.folders.values()
            return "refused an untouched specimen" if sound else None
        reason = must_refuse(path, max_bytes=MAX_BYTES)
        if reason is not None:
            return f"wrongly accepted: {reason}"
        return _handed_out(found)


def _read(path: Path) -> tuple[Contribution | None, str, str | None]:
    """The contribution, the name of the error, and what went wrong."""
    return _tried(lambda: store.read(path, max_bytes=MAX_BYTES))


def _read_as_used(path: Path) -> tuple[Contribution | None, str, str | None]:
    """The same for a reader that checks tensors as they are used, as compose and add do."""

    def settled() -> Contribution:
        found = store.read(path, max_bytes=MAX_BYTES, tensors="as used")
        found.settle()
        return found

    return _tried(settled)


def _judge_late(path: Path, found: Contribution | None, late: Contribution | None) -> str | None:
    """Both readers agree, but for a file's own digest, which the second leaves alone: its tensors' cover all bytes."""
    if found is not None and late is None:
        return "refused when its tensors are checked as they are used"
    if late is None or found is not None:
        return None
    reason = must_refuse(path, max_bytes=MAX_BYTES)
    own = reason is not None and reason.startswith("Broken: digest of a file")
    return f"wrongly accepted as used: {reason}" if reason is not None and not own else None


def _tried(read: Callable[[], Contribution]) -> tuple[Contribution | None, str, str | None]:
    try:
        with bounded(MOST_SECONDS), limited_memory(2 * MOST_GROWTH), WATCH.on():
            found = read()
    except ContributionError as error:
        plain = all(isinstance(part, str) and part for part in (error.what, error.why, error.mend))
        return None, type(error).__name__, _acted() if plain else "an error without words"
    except (Exception, TooSlow) as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return None, type(error).__name__, f"raised {error!r:.200} at {Path(where.filename).name}:{where.lineno}"
    return found, "", _acted()


def _acted() -> str | None:
    return f"did more than read: {WATCH.acts[0]}" if WATCH.acts else None


def _handed_out(found: Contribution) -> str | None:
    """Every tensor that is handed out has the bytes that the manifest names."""
    for file in found.manifest.payload.values():
        for name, entry in file.tensors.items():
            raw = found.tensor(name).contiguous().view(-1).numpy(force=True) if entry.dtype != "BF16" else None
            if raw is not None and f"sha256:{hashlib.sha256(raw.tobytes()).hexdigest()}" != entry.digest:
                return f"handed out other bytes for {name}"
    return None


def _state(path: Path) -> Sequence[tuple[str, int, int]]:
    return [(e.name, e.stat(follow_symlinks=False).st_mtime_ns, e.inode()) for e in sorted(os.scandir(path), key=str)]


def _unchanged(before: Sequence[tuple[str, int, int]], path: Path) -> str | None:
    return None if _state(path) == before else "the directory was changed"


@contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """Let this process grow by ``more`` bytes of address space and no further."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


class Memory:
    """How much resident memory grows from now on, at its peak."""

    def __init__(self) -> None:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        self._before = _status("VmRSS")

    def growth(self) -> int:
        return _status("VmHWM") - self._before


def _status(field: str) -> int:
    """A field of this process's status, in bytes."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return 1024 * int(found[1]) if found else 0
