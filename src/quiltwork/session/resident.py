"""A party that stays on its owner's machine while whoever carries its messages comes and goes.

    owner     Resident(party, start, terms, keys, path).serve()
                  the party's process, sealed as `process` seals it  <-  frames  ->  a Unix-domain socket at ``path``
    relay     asked(path, frame)          connect, one frame, its answer, and gone: as often as there are messages

A carrier that starts a program for each message (a Flower node does) has nothing to keep a learning component in. So
the component lives in a process that outlasts them, and the carrier's program holds no data and no key: it sees sealed
frames, as anybody on the way does. Nor does the process that listens see more; the node is in the one behind it.

Who may ask: the user who started it, since the socket lies in a directory of mode 0700 and the system is asked who is
at the other end (where it tells: Linux). One is heard at a time; a frame longer than any that was declared is not read;
who is slow is left. What such a visitor says besides is judged as on every channel: a frame that is not the next one
ends the party.

A resident is for one session and one pair of keys, so that no frame of an earlier session is the next one of a later.
It ends well when its node was told to stop.
"""

from __future__ import annotations

import os
import select
import socket
import stat
import struct
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from quiltwork.errors import InvalidOption, LostParty, StorageError
from quiltwork.session.channel import PairKeys, Terms, lost
from quiltwork.session.frames import MOST_BYTES, OVERHEAD, largest_frame
from quiltwork.session.process import PartyProcess, Start
from quiltwork.session.stream import read_frame, write_frame

LONGEST_PATH = 103
"""Bytes of a socket's path that every system takes."""

_PEER = struct.Struct("3i")


class Resident:
    """A party's process behind a socket of its owner.

    Args:
        party: its name, for errors.
        start: what its process begins with.
        terms: what it and the composer may say.
        keys: of the pair, drawn for this session; the composer has the same.
        path: where to listen; its directory is made with mode 0700, or has it.
        timeout: seconds that the node may take for an answer, and a visitor for a frame.
        start_timeout: seconds until the party must be ready.
        folder: where its process's own output goes, as ``<party>.txt``; None drops it.

    Attributes:
        sealing: ``"not sealed"``, ``"audit-hook"`` or ``"landlock"``, as the process says.

    Raises:
        InvalidOption: the path is too long, or a timeout is not positive.
        StorageError: the directory is open to others, or somebody listens at the path already.
        LostParty: the party did not get ready.
    """

    def __init__(
        self,
        party: str,
        start: Start,
        terms: Terms,
        keys: PairKeys,
        path: Path,
        *,
        timeout: float = 60.0,
        start_timeout: float = 120.0,
        folder: Path | None = None,
    ) -> None:
        if not (timeout > 0 and start_timeout > 0):
            raise InvalidOption(
                f"timeout={timeout}, start_timeout={start_timeout}",
                why="no party answers in no time",
                mend="Give seconds.",
            )
        self._party, self._path, self._timeout = party, path, timeout
        self._longest = largest_frame(terms.down)
        self._listener = _listener(path)
        try:
            self._process = PartyProcess(party, start, terms, keys, folder)
        except BaseException:
            self._leave()
            raise
        try:
            self.sealing = str(self._process.greeted(start_timeout))
        except BaseException:
            self.close()
            raise

    def serve(self, patience: float | None = None) -> None:
        """Answer whoever asks until the node has stopped.

        Args:
            patience: seconds that nobody may come; None waits for ever.

        Raises:
            LostParty: the process ended otherwise, did not answer in time, or nobody came.
        """
        while self._sentinel not in (ready := self._waited(patience)):
            if not ready:
                raise lost(self._party, f"nobody asked it anything for {patience} seconds")
            try:
                self._visit()
            except LostParty:
                # a frame that comes after the farewell finds nobody, and that is no failure
                if self._process.end() != 0:
                    raise
        if self._process.end() != 0:
            raise lost(self._party, "its process ended")

    def close(self) -> None:
        """End the party and listen no more; may be called twice."""
        self._process.hang_up()
        self._process.end()
        self._leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _sentinel(self) -> int:
        return self._process.sentinel

    def _waited(self, patience: float | None) -> list[int]:
        return select.select([self._listener.fileno(), self._sentinel], [], [], patience)[0]

    def _visit(self) -> None:
        """One visitor, one frame, one answer."""
        visitor, _ = self._listener.accept()
        # who hangs up, or dawdles, has done that to itself; the party goes on
        with visitor, suppress(OSError):
            visitor.settimeout(self._timeout)
            frame = read_frame(visitor, self._longest, within=self._timeout) if _is_own(visitor) else None
            if frame is not None:
                answer = self._answer(frame)
                visitor.settimeout(self._timeout)
                write_frame(visitor, answer)

    def _answer(self, frame: bytes) -> bytes:
        try:
            self._process.give(frame, self._timeout)
            return self._process.take(self._timeout)
        except OSError as error:
            raise lost(self._party, f"its socket failed ({error.strerror})") from None

    def _leave(self) -> None:
        if self._listener.fileno() >= 0:
            self._listener.close()
            self._path.unlink(missing_ok=True)


def asked(path: Path, frame: bytes, *, timeout: float = 60.0) -> bytes:
    """The answer of the party that listens at ``path`` to a frame.

    Raises:
        LostParty: nobody listens there, another user does, or no answer came in time.
    """
    with socket.socket(socket.AF_UNIX) as near:
        near.settimeout(timeout)
        try:
            near.connect(os.fspath(path))
            if not _is_own(near):
                raise _unanswered(path, "another user listens there")
            write_frame(near, frame)
            answer = read_frame(near, OVERHEAD + MOST_BYTES, within=timeout)
        except OSError as error:
            raise _unanswered(path, error.strerror or "it was silent within the timeout") from None
    if answer is None:
        raise _unanswered(path, "it hung up")
    return answer


def _unanswered(path: Path, why: str) -> LostParty:
    return LostParty(
        f"the party at '{path}'", why=why, mend="Start its process, under the same user, and the session again."
    )


def _is_own(other: socket.socket) -> bool:
    """Whether the other end is of this user; where the system does not tell, the directory has to do."""
    if not hasattr(socket, "SO_PEERCRED"):
        return True
    _, user, _ = _PEER.unpack(other.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return bool(user == os.geteuid())


def _listener(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise InvalidOption(
            f"socket '{path}'",
            why=f"the system takes paths of at most {LONGEST_PATH} bytes",
            mend="Choose a directory that is less deep.",
        )
    _require_private(path.parent)
    _require_free(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(os.fspath(path))
        path.chmod(0o600)
        listener.listen()
    except OSError as error:
        listener.close()
        raise StorageError(f"socket '{path}'", why=str(error), mend="Choose another place.") from None
    return listener


def _require_private(directory: Path) -> None:
    """Make the directory, or see that it is this user's alone; a link could lead anywhere tomorrow."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise StorageError(
            f"directory '{directory}'", why=str(error.strerror), mend="Choose another place for the socket."
        ) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise StorageError(
            f"directory '{directory}'",
            why="others may enter it, and so reach the party",
            mend="Name one of your own with mode 0700, or one that is not there yet.",
        )


def _require_free(path: Path) -> None:
    """A socket that nobody answers at was left behind, and goes; anything else stays."""
    if not path.exists() and not path.is_symlink():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
                return
        except OSError:
            pass
    raise StorageError(f"socket '{path}'", why="something is already there", mend="Choose another place, or end it.")
