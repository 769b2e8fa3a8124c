"""A component's process from end to end: it opens its fragment, warms up, is sealed, says so, and learns.

Each probe is tried from inside the process while a session runs. The negative control is the same process unsealed:
there all probes come through, and it says "not sealed".
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from split_parties import ADAM, WIDTH, component, fragments, modes, start

from quiltwork.models.split.targets import ClassTarget
from quiltwork.party.confine import Level, confine, landlock_abi
from quiltwork.session.channel import Terms
from quiltwork.session.frames import Kind, Message, Spec
from quiltwork.session.process import ProcessChannel, Sealing, Started
from quiltwork.session.split.component_node import ComponentNode
from quiltwork.session.split.labels import OwnLabels
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms

PARTIES = ("p0", "p1")
OPEN = None
LEVELS = [
    pytest.param("landlock", marks=pytest.mark.skipif(not landlock_abi(), reason="no Landlock here")),
    "audit-hook",
    pytest.param(OPEN, id="negative control"),
]
PROBES = ("own rows", "own state", "others' rows", "others' state", "a program", "native code", "tcp", "udp", "names")
TERMS = Terms(down={Kind.LOCAL: Spec()}, up={Kind.LOCAL: Spec("uint8", (len(PROBES),))})


@pytest.fixture
def base(tmp_path: Path) -> Path:
    for party, rows in fragments(parties=2)[0].items():
        (tmp_path / party / "state").mkdir(parents=True)
        np.save(tmp_path / party / "rows.npy", rows.numpy())
    return tmp_path


@pytest.fixture
def port() -> Iterator[int]:
    """Where somebody listens, outside the party's process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def sealed(own: Path, level: Level | None) -> Sealing:
    """How a party's start seals its process: reads its fragment, writes its states, and nothing else."""
    if level is None:
        return Sealing.NOT_SEALED
    return Sealing.of(confine([own], [own / "state"], level=level).level)


@dataclass(frozen=True)
class Probing:
    """A party that tries what it should not do."""

    base: Path
    level: Level | None
    port: int

    def __call__(self) -> Started:
        return Started(self, sealed(self.base / "p0", self.level))

    def handle(self, message: Message) -> Message:
        done = [not refused(probe) for probe in self.probes()]
        return Message(Kind.LOCAL, message.round, np.array(done, dtype=np.uint8))

    def probes(self) -> tuple[Callable[[], object], ...]:
        mine, theirs = self.base / "p0", self.base / "p1"
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        return (
            lambda: np.load(mine / "rows.npy"),
            lambda: (mine / "state" / "a").write_text("mine"),
            lambda: np.load(theirs / "rows.npy"),
            lambda: (theirs / "state" / "a").write_text("not mine"),
            lambda: run("cat", theirs / "rows.npy"),
            lambda: opened_natively(theirs / "rows.npy"),
            lambda: socket.create_connection(("127.0.0.1", self.port), timeout=5).close(),
            lambda: udp.sendto(b"a row", ("127.0.0.1", self.port)),
            lambda: socket.getaddrinfo("localhost", 80),
        )


def refused(action: Callable[[], object]) -> bool:
    try:
        action()
    except PermissionError:
        return True
    return False


def run(*command: object) -> None:
    if subprocess.run([str(word) for word in command], capture_output=True).returncode:
        raise PermissionError


def opened_natively(path: Path) -> None:
    handle = ctypes.CDLL(None).open(os.fsencode(path), os.O_RDONLY)
    if handle < 0:
        raise PermissionError
    os.close(handle)


@pytest.mark.parametrize("level", LEVELS)
def test_what_a_sealed_process_can_do(level: Level | None, base: Path, port: int) -> None:
    with ProcessChannel({"p0": Probing(base, level, port)}, {"p0": TERMS}) as channel:
        answer = channel.call("p0", Message(Kind.LOCAL)).array
        assert channel.sealing == {"p0": level or "not sealed"}
    assert answer is not None
    done = {probe for probe, came_through in zip(PROBES, answer, strict=True) if came_through}
    own = {"own rows", "own state"}
    # a guard inside Python does not see native code, and says no more than it is
    assert done == {"landlock": own, "audit-hook": own | {"native code"}, None: set(PROBES)}[level]
    assert (base / "p1" / "state" / "a").exists() == (level is None)


@dataclass(frozen=True)
class Opening:
    """Opens the party's fragment, warms up, and seals."""

    base: Path
    party: str
    level: Level

    def __call__(self) -> Started:
        # a library's threads that run already are not bound by Landlock
        torch.set_num_threads(1)
        own = self.base / self.party
        rows = torch.from_numpy(np.load(own / "rows.npy"))
        learner = component(self.party, rows.shape[1], ADAM)
        self.warm_up(rows)
        level = sealed(own, self.level)
        return Started(ComponentNode(learner, rows, folder=own / "state"), level)

    def warm_up(self, rows: torch.Tensor) -> None:
        """One step of a component that is thrown away, so that libraries load what they need."""
        node = ComponentNode(component("warm up", rows.shape[1], ADAM), rows)
        node.handle(Message(Kind.ROWS, 0, np.arange(2)))
        node.handle(Message(Kind.COTANGENT, 0, np.zeros((2, WIDTH), np.float32)))


@pytest.mark.parametrize("level", [LEVELS[0], pytest.param("audit-hook", marks=pytest.mark.slow)])
def test_a_sealed_component_learns_the_same(level: Level, base: Path) -> None:
    data, labels = fragments(parties=2)
    starts = {party: Opening(base, party, level) for party in PARTIES}
    channel = ProcessChannel(starts, dict.fromkeys(PARTIES, component_terms(WIDTH)), folder=base)
    mode, schedule = modes("joint", list(PARTIES), 3, ADAM), Schedule(np.arange(60), 16, 2, 3)
    live = SplitRun(
        channel,
        mode,
        OwnLabels(ClassTarget(labels, 3)),
        schedule,
        dict.fromkeys(PARTIES, WIDTH),
        sealing=channel.sealing,
        folder=base / "composer",
        save_every=3,
    )
    here = start("joint", data, labels)
    live.train()
    here.train()
    assert live.digests() == here.digests()
    assert live.records().sealing == dict.fromkeys(PARTIES, level)
    # states are written from inside
    assert all(any((base / party / "state").iterdir()) for party in PARTIES)
    live.close()


def native_threads() -> int:
    """Those that run when a party's start is called: libraries are imported by then, and it is not sealed yet."""
    return len(os.listdir("/proc/self/task")) - 1


@dataclass(frozen=True)
class Counting:
    """A party that tells how many threads would not have been bound."""

    def __call__(self) -> Started:
        found = native_threads()
        return Started(Telling(found))


@dataclass(frozen=True)
class Telling:
    """Says a number."""

    number: int

    def handle(self, message: Message) -> Message:
        return Message(Kind.LOCAL, message.round, np.array([self.number], dtype=np.uint8))


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted where Linux lists them")
def test_no_thread_runs_before_the_process_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    terms = Terms(down={Kind.LOCAL: Spec()}, up={Kind.LOCAL: Spec("uint8", (1,))})
    with ProcessChannel({"p0": Counting()}, {"p0": terms}) as channel:
        found = channel.call("p0", Message(Kind.LOCAL)).array
    assert found is not None
    assert found.tolist() == [0]
    assert "OPENBLAS_NUM_THREADS" not in os.environ, "what this process does is not changed"
    if len(os.sched_getaffinity(0)) > 1:
        # negative control: a program that imports the same starts some
        words = "import numpy, os; print(len(os.listdir('/proc/self/task')) - 1)"
        told = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True)
        assert int(told.stdout) > 0
