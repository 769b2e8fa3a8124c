"""The channel between a composer and its parties: four verbs, and a log of every byte.

    nodes()                 who is there, in a fixed order
    push(node, message)     say something to one of them
    pull(node)              the next answer of one of them
    call(node, message)     push, then pull

Every backend carries frames (`quiltwork.session.frames`) and nothing else, inside one process too, so a test in one
process sees what two machines would. ``Log`` counts each frame on its way, by party, direction and kind, and keeps a
running digest of all bytes: two sessions that said the same have the same transcript.

A party's end is a ``Node``: it gets a message and gives the answer. Exceptions do not cross: a node that fails answers
``REFUSED`` with one byte out of a closed list.

>>> class Echo:
...     def handle(self, message):
...         return Message(Kind.ACTIVATION, message.round, message.array * 2)
>>> one = {Kind.ACTIVATION: Spec("float32", (None, 2))}
>>> channel = LocalChannel({"ash": Echo()}, {"ash": Terms(down=one, up=one)})
>>> channel.call("ash", Message(Kind.ACTIVATION, 3, np.ones((1, 2), np.float32))).array
array([[2., 2.]], dtype=float32)
>>> channel.log.bytes("ash", "up"), channel.log.bytes("ash", "down")
(62, 62)
"""

from __future__ import annotations

import hashlib
import secrets
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from quiltwork.errors import AlteredFrame, InvalidOption, LostParty
from quiltwork.session.frames import Kind, Message, Opener, Refusal, Schema, Sealer, Spec

Direction = Literal["down", "up"]
"""Down: from the composer to a party. Up: the answers."""


class Node(Protocol):
    """A party's end of a channel."""

    def handle(self, message: Message) -> Message:
        """The answer to one message. What it raises becomes a refusal of one byte."""
        ...


@dataclass(frozen=True)
class Terms:
    """What a composer and one party may say to each other, agreed before the first frame.

    Attributes:
        down: what the composer may send.
        up: what the party may answer; ``REFUSED`` is always among it.
    """

    down: Schema
    up: Schema

    def __post_init__(self) -> None:
        object.__setattr__(self, "up", {**self.up, Kind.REFUSED: Spec("uint8", (1,))})


@dataclass
class Log:
    """Every frame that crossed, as counts and digests; never as content.

    Attributes:
        frames: number of frames by (party, direction, kind).
        sizes: bytes by (party, direction, kind).
    """

    frames: Counter[tuple[str, Direction, Kind]] = field(default_factory=Counter)
    sizes: Counter[tuple[str, Direction, Kind]] = field(default_factory=Counter)
    _digests: dict[tuple[str, Direction], hashlib._Hash] = field(default_factory=dict)

    def note(self, party: str, direction: Direction, message: Message, frame: bytes) -> None:
        """Count one frame."""
        key = (party, direction, message.kind)
        self.frames[key] += 1
        self.sizes[key] += len(frame)
        self._digests.setdefault((party, direction), hashlib.sha256()).update(frame[:-16])

    def bytes(self, party: str | None = None, direction: Direction | None = None, kind: Kind | None = None) -> int:
        """Bytes that crossed, of all or of one party, direction, kind."""
        return sum(
            size
            for (who, way, what), size in self.sizes.items()
            if party in (None, who) and direction in (None, way) and kind in (None, what)
        )

    def digest(self, party: str, direction: Direction) -> str:
        """SHA-256 over all frames of one direction, tags apart (they depend on the session's keys)."""
        known = self._digests.get((party, direction))
        return (known.copy() if known else hashlib.sha256()).hexdigest()


class Channel(Protocol):
    """The four verbs, whatever carries them."""

    @property
    def log(self) -> Log:
        """What crossed."""
        ...

    def nodes(self) -> tuple[str, ...]:
        """The parties, sorted by name."""
        ...

    def push(self, node: str, message: Message) -> None:
        """Say something to a party."""
        ...

    def pull(self, node: str) -> Message:
        """The next answer of a party.

        Raises:
            LostParty: it is gone, silent for too long, or refuses.
            AlteredFrame: what came is not what was declared.
        """
        ...

    def call(self, node: str, message: Message) -> Message:
        """Push, then pull."""
        ...

    def close(self) -> None:
        """Part from all parties; may be called twice."""
        ...


@dataclass(frozen=True, repr=False)
class PairKeys:
    """The two keys of a pair, one a direction, so that a frame cannot be sent back as an answer; never printed."""

    down: bytes
    up: bytes

    @classmethod
    def fresh(cls) -> PairKeys:
        """Keys from the operating system's entropy."""
        return cls(secrets.token_bytes(32), secrets.token_bytes(32))


class ComposerEnd:
    """The composer's end of one pair: seals and logs what goes down, opens and logs what comes up."""

    def __init__(self, party: str, terms: Terms, keys: PairKeys, log: Log) -> None:
        self._party, self._log = party, log
        self._sealer, self._opener = Sealer(keys.down), Opener(keys.up, terms.up)

    def seal(self, message: Message) -> bytes:
        """The frame of a message."""
        frame = self._sealer.seal(message)
        self._log.note(self._party, "down", message, frame)
        return frame

    def open(self, frame: bytes) -> Message:
        """The message of a frame; a refusal becomes an error.

        Raises:
            AlteredFrame: it is not what was declared; the party is named.
            LostParty: the party refuses.
        """
        try:
            message = self._opener.open(frame)
        except AlteredFrame as error:
            raise AlteredFrame(f"{error.what} of party '{self._party}'", why=error.why, mend=error.mend) from error
        self._log.note(self._party, "up", message, frame)
        if message.kind is Kind.REFUSED and message.array is not None:
            code = int(message.array[0])
            reason = Refusal(code).name if code in Refusal.__members__.values() else f"code {code}"
            raise lost(self._party, f"it refused round {message.round}: {reason.lower().replace('_', ' ')}")
        return message


class PartyEnd:
    """A party's end of one pair: opens, lets its node answer, seals. The same code in every backend.

    Attributes:
        stopped: whether the node was told to stop, and agreed; a process that holds nothing else may end then.
    """

    def __init__(self, node: Node, terms: Terms, keys: PairKeys) -> None:
        self._node, self.stopped = node, False
        self._opener, self._sealer = Opener(keys.down, terms.down), Sealer(keys.up)

    def answer(self, frame: bytes) -> bytes:
        """The frame of the answer to a frame.

        Raises:
            AlteredFrame: the frame is not what was declared; the party ends the session, and says nothing more.
        """
        message = self._opener.open(frame)
        try:
            reply = self._node.handle(message)
        except RefusedRequest as refused:
            reply = refusal(refused.reason, message.round)
        except Exception:
            reply = refusal(Refusal.FAILED, message.round)
        self.stopped = self.stopped or (message.kind is Kind.STOP and reply.kind is not Kind.REFUSED)
        return self._sealer.seal(reply)


class RefusedRequest(Exception):
    """Raised by a node: what it will not do, as one of the closed list.

    Args:
        reason: the byte that crosses.
    """

    def __init__(self, reason: Refusal) -> None:
        super().__init__(reason)
        self.reason = reason


def refusal(reason: Refusal, round_: int) -> Message:
    """The message that says no."""
    return Message(Kind.REFUSED, round_, np.array([reason], dtype=np.uint8))


def lost(party: str, why: str) -> LostParty:
    """The error about a party that does not go on."""
    return LostParty(
        f"party '{party}'",
        why=why,
        mend="Look at that party's own output; then resume the session, or start it without the party.",
    )


class LocalChannel:
    """All parties in this process; every message still becomes a frame and is opened again.

    Args:
        nodes: the parties' ends, by name.
        terms: what each pair may say.
        keys: of each pair; drawn where not given.

    Raises:
        InvalidOption: nodes and terms name different parties.
    """

    def __init__(
        self, nodes: Mapping[str, Node], terms: Mapping[str, Terms], keys: Mapping[str, PairKeys] | None = None
    ) -> None:
        if sorted(nodes) != sorted(terms):
            raise InvalidOption(
                "terms",
                why=f"they are for {sorted(terms)}, and the parties are {sorted(nodes)}",
                mend="Give terms for each party.",
            )
        self.log = Log()
        pairs = {name: keys[name] if keys else PairKeys.fresh() for name in nodes}
        self._far = {name: PartyEnd(node, terms[name], pairs[name]) for name, node in nodes.items()}
        self._near = {name: ComposerEnd(name, terms[name], pairs[name], self.log) for name in nodes}
        self._waiting: dict[str, deque[bytes]] = {name: deque() for name in nodes}

    def nodes(self) -> tuple[str, ...]:
        """The parties, sorted by name."""
        return tuple(sorted(self._near))

    def push(self, node: str, message: Message) -> None:
        """Say something to a party; it answers at once."""
        self._waiting[known(node, self.nodes())].append(self._far[node].answer(self._near[node].seal(message)))

    def pull(self, node: str) -> Message:
        """The next answer of a party."""
        if not self._waiting[known(node, self.nodes())]:
            raise lost(node, "it has nothing more to say")
        return self._near[node].open(self._waiting[node].popleft())

    def call(self, node: str, message: Message) -> Message:
        """Push, then pull."""
        self.push(node, message)
        return self.pull(node)

    def close(self) -> None:
        """Nothing to part from."""


def known(node: str, nodes: tuple[str, ...]) -> str:
    """``node``, if it is there.

    Raises:
        InvalidOption: it is not.
    """
    if node not in nodes:
        raise InvalidOption(f"party '{node}'", why="it is not in the session", mend=f"The parties: {', '.join(nodes)}.")
    return node
