"""Each party in a process of its own, on this machine: frames over a socket pair, and nothing else between them.

    spawn     a fresh interpreter, which inherits no memory, so no other party's fragment
    start     inside it: open the own fragment, warm up, seal the process, give the node and how it is sealed
    greet     READY [1], the sealing as one number
    serve     length, frame; length, frame; ... (`stream`) until STOP was answered, or the other end closes

A party that dies closes its socket, which the composer sees at once (`LostParty`); one that is silent for longer than
``timeout`` is given up. Both ends may have large frames under way at the same time: while the composer writes it takes
in what comes. The greeting has keys of its own and is not in the session's log, so that the log of a session is the
same over every backend.

What the composer hands a child at its start is a picklable function and keys; it should name the party's files, and
not contain rows. After that only frames cross. A child's own output goes to a file that is its owner's, or nowhere:
words would be a channel.
"""

from __future__ import annotations

import enum
import multiprocessing
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from quiltwork.errors import AlteredFrame, InvalidOption, LostParty
from quiltwork.session.channel import ComposerEnd, Log, Node, PairKeys, PartyEnd, Terms, known, lost
from quiltwork.session.frames import Kind, Message, Opener, Sealer, Spec, largest_frame
from quiltwork.session.stream import LENGTH, PIECE, announced, read_frame, write_frame

_POOL = "OPENBLAS_NUM_THREADS"
_GREETING = {Kind.READY: Spec("uint8", (1,))}


class Sealing(enum.IntEnum):
    """How a party's process is confined; crosses as one number."""

    NOT_SEALED = 0
    AUDIT_HOOK = 1
    LANDLOCK = 2

    @classmethod
    def of(cls, level: str) -> Sealing:
        """The one of that name, as a confinement gives it.

        >>> Sealing.of("audit-hook")
        <Sealing.AUDIT_HOOK: 1>
        """
        return cls[level.upper().replace("-", "_")]

    def __str__(self) -> str:
        return self.name.lower().replace("_", " " if self is Sealing.NOT_SEALED else "-")


@dataclass(frozen=True)
class Started:
    """A party that is ready.

    Attributes:
        node: its end of the channel.
        sealing: what was done to its process.
    """

    node: Node
    sealing: Sealing = Sealing.NOT_SEALED


class Start(Protocol):
    """Runs inside the party's process: opens its fragment, warms up, seals the process. Must be picklable."""

    def __call__(self) -> Started:
        """The party's node, and how its process is sealed."""
        ...


class ProcessChannel:
    """Parties in spawned processes.

    Args:
        starts: what each party's process begins with, by name.
        terms: what each pair may say.
        timeout: seconds that a party may be silent.
        start_timeout: seconds until it must be ready.
        folder: where each child's own output goes, as ``<party>.txt``; None drops it.

    Attributes:
        log: what crossed, the greetings apart.
        sealing: by party: ``"not sealed"``, ``"audit-hook"`` or ``"landlock"``, as its process says.

    Raises:
        InvalidOption: starts and terms name different parties, or a timeout is not positive.
        LostParty: a party did not get ready.
    """

    def __init__(
        self,
        starts: Mapping[str, Start],
        terms: Mapping[str, Terms],
        *,
        timeout: float = 60.0,
        start_timeout: float = 120.0,
        folder: Path | None = None,
    ) -> None:
        _require_parties(starts, terms)
        if not (timeout > 0 and start_timeout > 0):
            raise InvalidOption(
                f"timeout={timeout}, start_timeout={start_timeout}",
                why="no party answers in no time",
                mend="Give seconds.",
            )
        self.log = Log()
        self.sealing: dict[str, str] = {}
        self._timeout = timeout
        self._pairs: dict[str, _Pair] = {}
        try:
            for name in sorted(starts):
                keys = PairKeys.fresh()
                process = PartyProcess(name, starts[name], terms[name], keys, folder)
                self._pairs[name] = _Pair(process, ComposerEnd(name, terms[name], keys, self.log))
            for name, pair in self._pairs.items():
                self.sealing[name] = str(pair.process.greeted(start_timeout))
        except BaseException:
            self.close()
            raise

    def nodes(self) -> tuple[str, ...]:
        """The parties, sorted by name."""
        return tuple(self._pairs)

    def push(self, node: str, message: Message) -> None:
        """Say something to a party.

        Raises:
            LostParty: it is gone, or does not take it in time.
        """
        pair = self._pairs[known(node, self.nodes())]
        pair.process.require_there()
        pair.process.give(pair.end.seal(message), self._timeout)

    def pull(self, node: str) -> Message:
        """The next answer of a party.

        Raises:
            LostParty: it is gone, silent for too long, has nothing to answer, or refuses.
            AlteredFrame: what came is not what was declared.
        """
        pair = self._pairs[known(node, self.nodes())]
        return pair.end.open(pair.process.take(self._timeout))

    def call(self, node: str, message: Message) -> Message:
        """Push, then pull."""
        self.push(node, message)
        return self.pull(node)

    def close(self) -> None:
        """End all processes; whoever does not go by itself is made to."""
        for pair in self._pairs.values():
            pair.process.hang_up()
        for pair in self._pairs.values():
            pair.process.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class _Pair:
    """The composer's side of one party."""

    process: PartyProcess
    end: ComposerEnd


class PartyProcess:
    """A spawned process that holds a party's node and answers frames, and the socket to it.

    Whoever has this sees frames, not what is in them: a composer's end, or a relay on the owner's machine.

    Args:
        party: its name, for errors.
        start: what the process begins with.
        terms: what the pair may say.
        keys: of the pair.
        folder: where the process's own output goes; None drops it.
    """

    def __init__(self, party: str, start: Start, terms: Terms, keys: PairKeys, folder: Path | None) -> None:
        self._party = party
        greeting = PairKeys.fresh()
        self._greeting = Opener(greeting.up, _GREETING)
        self._longest = largest_frame(terms.up)
        self._socket, far = socket.socketpair()
        self._arrived: deque[bytes] = deque()
        self._partial = bytearray()
        self._due, self._why = 1, ""
        output = os.fspath(folder / f"{party}.txt") if folder else os.devnull
        self._process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(far, start, terms, keys, greeting.up, output), name=f"party {party}", daemon=True
        )
        try:
            with _single_native_thread():
                self._process.start()
        except BaseException:
            self._socket.close()
            raise
        finally:
            far.close()
        self._socket.setblocking(False)

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self._process.pid

    @property
    def sentinel(self) -> int:
        """A handle that is readable once the process has ended."""
        return self._process.sentinel

    def greeted(self, timeout: float) -> Sealing:
        """How the party is sealed, once it is ready.

        Raises:
            LostParty: it did not get ready.
        """
        array = self._greeting.open(self.take(timeout, "did not get ready")).array
        assert array is not None
        try:
            return Sealing(int(array[0]))
        except ValueError:
            raise AlteredFrame(
                f"the greeting of party '{self._party}'",
                why=f"it names sealing {int(array[0])}, which there is not",
                mend="Start the session again.",
            ) from None

    def give(self, frame: bytes, timeout: float) -> None:
        """Write a frame, and take in what comes meanwhile.

        Raises:
            LostParty: the process is gone, or does not take it in time.
        """
        self.require_there()
        self._due += 1
        rest, deadline = memoryview(announced(frame)), time.monotonic() + timeout
        while rest:
            readable, writable = self._wait(deadline, "did not take what it was sent", writing=True)
            if readable:
                self._take()
            if writable:
                rest = rest[self._give(rest) :]

    def take(self, timeout: float, failing: str = "was silent") -> bytes:
        """The next frame of the party.

        Raises:
            LostParty: the process is gone, silent for too long, or has nothing to answer.
        """
        if not self._due:
            raise lost(self._party, "it has nothing more to say")
        deadline = time.monotonic() + timeout
        while not self._arrived:
            self.require_there()
            self._wait(deadline, failing, writing=False)
            self._take()
        self._due -= 1
        return self._arrived.popleft()

    def hang_up(self) -> None:
        """Let the party know that this is the end."""
        self._why = self._why or "the session is closed"
        self._socket.close()

    def end(self) -> int | None:
        """See the process out; its exit code, 0 where it ended by itself and as it should."""
        self._process.join(2)
        for urge in (self._process.terminate, self._process.kill):
            if self._process.exitcode is None:
                urge()
                self._process.join(2)
        return self._process.exitcode

    def _wait(self, deadline: float, failing: str, *, writing: bool) -> tuple[bool, bool]:
        """Whether there is something to read, and room to write; answers that nobody asked for are not read."""
        reading = [self._socket] if len(self._arrived) < self._due else []
        left = max(0.0, deadline - time.monotonic())
        readable, writable, _ = select.select(reading, [self._socket] if writing else [], [], left)
        if not readable and not writable:
            raise self._gone(f"it {failing} within the timeout")
        return bool(readable), bool(writable)

    def _give(self, rest: memoryview) -> int:
        try:
            return self._socket.send(rest[:PIECE])
        except BlockingIOError:
            return 0
        except OSError:
            raise self._gone("its process ended") from None

    def _take(self) -> None:
        try:
            piece = self._socket.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece:
            raise self._gone("its process ended")
        self._partial += piece
        while len(self._partial) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._partial)
            if length > self._longest:
                raise self._gone(f"it announced a frame of {length} bytes, and {self._longest} is the most declared")
            if len(self._partial) < LENGTH.size + length:
                return
            self._arrived.append(bytes(self._partial[LENGTH.size : LENGTH.size + length]))
            del self._partial[: LENGTH.size + length]

    def require_there(self) -> None:
        """Raises LostParty for one that was given up."""
        if self._why:
            raise lost(self._party, self._why)

    def _gone(self, why: str) -> LostParty:
        """The party is given up for good: an answer that comes too late would be taken for the next one."""
        self._why = why
        return lost(self._party, why)


@contextmanager
def _single_native_thread() -> Iterator[None]:
    """A child that is started within has no pool of native threads before it is sealed.

    OpenBLAS starts its pool when numpy is imported, and Landlock does not bind threads that run already. What learns
    here computes by torch, whose threads start later.
    """
    before = os.environ.get(_POOL)
    os.environ[_POOL] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_POOL]
        else:
            os.environ[_POOL] = before


def _serve(
    near: socket.socket, start: Start, terms: Terms, keys: PairKeys, greeting: bytes, output: str
) -> None:  # pragma: no cover - runs in the child
    """The whole life of a party's process."""
    # Ctrl-C reaches the whole group of processes; the composer decides, and its end closing is what ends the party
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _redirect(output)
    started = start()
    level = np.array([started.sealing], dtype=np.uint8)
    write_frame(near, Sealer(greeting).seal(Message(Kind.READY, 0, level)))
    end, longest = PartyEnd(started.node, terms, keys), largest_frame(terms.down)
    while not end.stopped and (frame := read_frame(near, longest)) is not None:
        write_frame(near, end.answer(frame))


def _redirect(output: str) -> None:  # pragma: no cover - runs in the child
    handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.close(handle)


def _require_parties(starts: Mapping[str, Start], terms: Mapping[str, Terms]) -> None:
    if sorted(starts) != sorted(terms) or not starts:
        raise InvalidOption(
            "terms",
            why=f"they are for {sorted(terms)}, and the parties are {sorted(starts)}",
            mend="Give each its own.",
        )
