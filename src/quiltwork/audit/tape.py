"""A tape of a session: every message of every party, in order, for replay and for attacks.

The log of a channel keeps counts and digests and forgets content. Who wants to audit a session puts a `Tape` between
the run and its channel:

    run = SplitRun(Tape(channel), mode, ...)

It is as secret as what it holds: cotangents tell of labels. The tape vouches for itself: sealed again, its messages
give the digests that the log of the channel has, whatever the keys were (`require_genuine`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quiltwork.audit.facts import Facts, altered
from quiltwork.errors import InvalidOption
from quiltwork.session.channel import Channel, Direction, Log
from quiltwork.session.frames import Kind, Message, Sealer


@dataclass
class Spool:
    """What was said to one party and by it.

    Attributes:
        down: messages of the composer, in order.
        up: answers, in order.
    """

    down: list[Message] = field(default_factory=list)
    up: list[Message] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Lessons:
    """Training rounds of one party, side by side.

    Attributes:
        rounds: int64 ``[m]``, the round of each row.
        rows: int64 ``[m]``, its position in the agreed order.
        activations: float32 ``[m, d]``; ``[m, 0]`` where they crossed under masks.
        cotangents: float32 ``[m, d]``, times the size of the batch, so that rounds compare.
    """

    rounds: NDArray[np.int64]
    rows: NDArray[np.int64]
    activations: NDArray[np.float32]
    cotangents: NDArray[np.float32]

    def within(self, first: int, after: int) -> Lessons:
        """Those of rounds ``first ... after - 1``."""
        at = (self.rounds >= first) & (self.rounds < after)
        return Lessons(self.rounds[at], self.rows[at], self.activations[at], self.cotangents[at])


class Tape:
    """A channel that keeps what crosses.

    Args:
        channel: what carries the messages.

    Attributes:
        spools: by party.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.spools: dict[str, Spool] = defaultdict(Spool)

    @property
    def log(self) -> Log:
        """What crossed, as counts and digests."""
        return self._channel.log

    def nodes(self) -> tuple[str, ...]:
        """The parties, sorted by name."""
        return self._channel.nodes()

    def push(self, node: str, message: Message) -> None:
        """Say something to a party, and keep it."""
        self._channel.push(node, message)
        self.spools[node].down.append(message)

    def pull(self, node: str) -> Message:
        """The next answer of a party, kept."""
        message = self._channel.pull(node)
        self.spools[node].up.append(message)
        return message

    def call(self, node: str, message: Message) -> Message:
        """Push, then pull."""
        self.push(node, message)
        return self.pull(node)

    def close(self) -> None:
        """Part from all parties."""
        self._channel.close()

    def lessons(self, party: str) -> Lessons:
        """The training rounds of a party whose cotangents have come, in order.

        Raises:
            AlteredRecords: the party had none.
            InvalidOption: they crossed with eight bits, and are no plain numbers.
        """
        spool = self.spools[party]
        rows = {m.round: m.array for m in spool.down if m.kind is Kind.ROWS}
        told = {m.round: m.array for m in spool.up if m.kind is Kind.ACTIVATION}
        taught = {m.round: m.array for m in spool.down if m.kind is Kind.COTANGENT}
        if not taught:
            raise altered(f"the tape of party '{party}'", "no cotangents are on it")
        at = sorted(taught)
        if _array(taught[at[0]]).dtype != np.float32:
            raise InvalidOption(
                f"the tape of party '{party}'", why="its numbers are not float32", mend="Tape a session with float32."
            )
        sizes = [len(_array(rows[t])) for t in at]
        return Lessons(
            np.repeat(np.array(at, dtype=np.int64), sizes),
            np.concatenate([_array(rows[t]) for t in at]),
            np.concatenate([_array(told[t]) if t in told else np.empty((len(_array(rows[t])), 0)) for t in at]),
            np.concatenate([_array(taught[t]) * np.float32(len(_array(taught[t]))) for t in at]),
        )


def require_genuine(tape: Tape, facts: Facts) -> None:
    """Refuse a tape that is of another session than the facts.

    Raises:
        AlteredRecords: its messages give other digests.
    """
    for party, transcript in facts.transcripts.items():
        spool = tape.spools[party]
        found = digest_again(party, "down", spool.down), digest_again(party, "up", spool.up)
        if found != (transcript.down, transcript.up):
            raise altered(f"the tape of party '{party}'", "its messages are not those that the log counted")


def digest_again(party: str, direction: Direction, messages: Sequence[Message]) -> str:
    """The digest that a log has of these messages, from the first frame on."""
    log, sealer = Log(), Sealer(bytes(32))
    for message in messages:
        log.note(party, direction, message, sealer.seal(message))
    return log.digest(party, direction)


def _array(array: NDArray[Any] | None) -> NDArray[Any]:
    assert array is not None
    return array
