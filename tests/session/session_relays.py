"""A channel to residents, for tests: each frame is a visit to a party's socket, as a relay of a carrier makes it."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quiltwork.errors import LostParty
from quiltwork.session.channel import ComposerEnd, Log, PairKeys, Terms, known, lost
from quiltwork.session.frames import Kind, Message
from quiltwork.session.process import Start
from quiltwork.session.resident import Resident, asked


@dataclass
class Pair:
    end: ComposerEnd
    resident: Resident
    path: Path
    served: threading.Thread = field(init=False)
    why: str = ""
    stopping: bool = False
    answers: deque[bytes] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.served = threading.Thread(target=self._serve, daemon=True)
        self.served.start()

    def _serve(self) -> None:
        try:
            self.resident.serve()
        except LostParty as error:
            self.why = error.why
        except ValueError:
            # the test closed the listener, from its own thread, between two looks
            self.why = "closed"


class RelayChannel:
    """Parties behind sockets; the owner's side of each is a thread."""

    def __init__(self, starts: Mapping[str, Start], terms: Mapping[str, Terms], *, timeout: float = 20) -> None:
        self.log, self._pairs, self._timeout = Log(), {}, timeout
        # a socket's path is short, and that of a test's own directory may not be
        self.place = Path(tempfile.mkdtemp(prefix="qw"))
        self.sealing: dict[str, str] = {}
        self.keys: dict[str, PairKeys] = {}
        for party in sorted(starts):
            keys, path = PairKeys.fresh(), self.place / party / "socket"
            resident = Resident(party, starts[party], terms[party], keys, path, timeout=timeout)
            self._pairs[party] = Pair(ComposerEnd(party, terms[party], keys, self.log), resident, path)
            self.sealing[party], self.keys[party] = resident.sealing, keys

    def nodes(self) -> tuple[str, ...]:
        return tuple(self._pairs)

    def push(self, node: str, message: Message) -> None:
        pair = self._pairs[known(node, self.nodes())]
        pair.stopping = message.kind is Kind.STOP
        pair.answers.append(asked(pair.path, pair.end.seal(message), timeout=self._timeout))

    def pull(self, node: str) -> Message:
        pair = self._pairs[known(node, self.nodes())]
        if not pair.answers:
            raise lost(node, "it has nothing more to say")
        return pair.end.open(pair.answers.popleft())

    def call(self, node: str, message: Message) -> Message:
        self.push(node, message)
        return self.pull(node)

    def close(self) -> None:
        for pair in self._pairs.values():
            # one that was told to stop is given the time to
            pair.served.join(20 if pair.stopping else 0)
            pair.resident.close()
            pair.served.join(20)
        shutil.rmtree(self.place, ignore_errors=True)
