"""Joint mode of which the composer sees only the sum of the activations, and none of them by itself.

    L = loss(g(h_1 + ... + h_n), Y)         cotangent(i) = dL/d(h_1 + ... + h_n), the same for every i

The chain rule gives each summand the cotangent of the sum, so the algebra of joint mode asks the composer for nothing
else. `SummingChannel` makes the n parties one: asked for activations it answers with their sum, put together under
masks (`quiltwork.session.secure_sum`); what it is given for them goes to each alike. The run behind it is that of
every joint mode, and has no way to a single activation.

Numbers. A summand is rounded to a grid of 2^-bits and refused beyond its bound; the sum on the grid is exact:

    |sum of integers / 2^bits - (h_1 + ... + h_n)|  <=  n 2^-(bits + 1)

and then rounded to float32, as every activation is. With 32 bits and four parties that is 5e-10 before the rounding of
float32, which is coarser for sums above 0.01. So it is not the plain sum of float32 bit for bit; it is the fixed-point
one, bit for bit, whatever the masks were.

A party that is gone ends the round and is named: without it the masks of the others do not cancel. With it back,
`resume` goes on; without it the others need a new roster and, in joint mode, new training. Quorum and absence are
refused: two sums over different rosters differ by somebody's activation.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.errors import InvalidOption
from quiltwork.models.split.component import Component
from quiltwork.session.channel import Channel, Log, Terms, lost
from quiltwork.session.frames import Kind, Message, frame_bytes
from quiltwork.session.secure_sum import secure_sum, sum_bytes, summand_terms, together
from quiltwork.session.split.bill import DIGEST, STATE, STOP, Bill
from quiltwork.session.split.joint import Joint
from quiltwork.session.split.labels import Labels
from quiltwork.session.split.records import Events, SplitRecords
from quiltwork.session.split.run import SplitRun
from quiltwork.session.split.schedule import Schedule
from quiltwork.session.split.words import component_terms
from quiltwork.sharing.secure_sum import SumGrid

SUM = "sum"
"""By which name the run knows the parties together."""

_ANSWERS = {Kind.ROWS: Kind.ACTIVATION, Kind.OUTPUT: Kind.OUTPUT}
_DIGESTS = {Kind.DIGEST: DIGEST, Kind.STATE: STATE}


def summed_terms(width: int, parties: int) -> Terms:
    """What a composer and a component of some width in a sum of so many may say."""
    return summand_terms(component_terms(width), parties)


class SummingChannel:
    """A channel on which the parties of a sum are one, by the name `SUM`; others on it are as they are.

    What is pushed to the sum is carried out when it is pulled, in order: each sum takes three exchanges.

    Args:
        channel: to a `SummandNode` of each party.
        parties: the whole roster.
        width: of their activations.
        grid: that of the parties.

    Attributes:
        bill: what the sums, and all that was said to the parties alike, must have cost.
    """

    def __init__(self, channel: Channel, parties: Sequence[str], width: int, grid: SumGrid) -> None:
        self.parties, self.bill = tuple(sorted(parties)), Bill()
        self._channel, self._width, self._grid = channel, width, grid
        self._waiting: deque[Message] = deque()
        self._number = 0

    @property
    def log(self) -> Log:
        """What crossed, party by party."""
        return self._channel.log

    def nodes(self) -> tuple[str, ...]:
        """The sum, and whoever is no part of it."""
        return tuple(sorted({SUM, *self._channel.nodes()} - set(self.parties)))

    def push(self, node: str, message: Message) -> None:
        """Say something to all of the sum, or to another party."""
        if node == SUM:
            self._waiting.append(message)
        else:
            self._channel.push(node, message)

    def pull(self, node: str) -> Message:
        """The next answer of the sum, or of another party.

        Raises:
            LostParty: a party is gone, silent or refuses, or nothing was asked of the sum.
            AlteredFrame: what came is not what was declared.
        """
        if node == SUM and not self._waiting:
            raise lost(SUM, "it has nothing more to say")
        return self._answer(self._waiting.popleft()) if node == SUM else self._channel.pull(node)

    def call(self, node: str, message: Message) -> Message:
        """Push, then pull."""
        self.push(node, message)
        return self.pull(node)

    def close(self) -> None:
        """Part from all parties."""
        self._channel.close()

    def digests(self, round_: int) -> dict[str, str]:
        """SHA-256 of each party's component."""
        found = together(self._channel, self.parties, Message(Kind.DIGEST, round_), Kind.DIGEST)
        self._spent(DIGEST)
        return {party: found[party].tobytes().hex() for party in self.parties}

    def _answer(self, message: Message) -> Message:
        if message.kind in _ANSWERS:
            return self._sum(message)
        if message.kind in _DIGESTS:
            found = together(self._channel, self.parties, message, Kind.DIGEST)
            self._spent(_DIGESTS[message.kind])
            whole = hashlib.sha256(b"".join(found[party].tobytes() for party in self.parties)).digest()
            return Message(Kind.DIGEST, message.round, np.frombuffer(whole, dtype=np.uint8))
        together(self._channel, self.parties, message, Kind.DONE)
        shape = None if message.array is None else message.array.shape
        self._spent(STOP if shape is None else (frame_bytes("float32", shape), frame_bytes(None)))
        return Message(Kind.DONE, message.round)

    def _sum(self, question: Message) -> Message:
        self._number += 1
        total = secure_sum(self._channel, question, self._grid, number=self._number, parties=self.parties)
        rows = 0 if question.array is None else len(question.array)
        self._spent(sum_bytes(len(self.parties), rows, self._width))
        return Message(_ANSWERS[question.kind], question.round, total.astype(np.float32))

    def _spent(self, cost: tuple[int, int]) -> None:
        for party in self.parties:
            self.bill.add(party, cost)


class SummedRun(SplitRun):
    """A session of split learning over the sum of the parties' activations.

    Args:
        channel: to a `SummandNode` of each party, and to the label party where there is one.
        composer: its module takes a list of one activation, the sum, and gives logits ``[b, k]``.
        labels: who answers logits.
        schedule: which rows in which round, without absences.
        parties: the whole roster, three or more.
        width: of all their activations.
        grid: that of the parties' seats.
        classes: whether the logits are of classes; numbers otherwise.
        greatest_norm: largest norm of a row of the sum that is believed.
        folder, save_every, sealing, events: as in `SplitRun`.

    Raises:
        InvalidOption: fewer than three parties, a schedule with absences, or as `SplitRun`.
    """

    channel: SummingChannel

    def __init__(
        self,
        channel: Channel,
        composer: Component,
        labels: Labels,
        schedule: Schedule,
        parties: Sequence[str],
        width: int,
        *,
        grid: SumGrid | None = None,
        classes: bool = True,
        greatest_norm: float = math.inf,
        folder: Path | None = None,
        save_every: int = 0,
        sealing: Mapping[str, str] | None = None,
        events: Sequence[Events] = (),
    ) -> None:
        _require_sum(channel, parties, schedule)
        self.summands = tuple(sorted(parties))
        summing = SummingChannel(channel, parties, width, SumGrid() if grid is None else grid)
        super().__init__(
            summing, Joint(composer, {SUM: width}, classes=classes), labels, schedule, {SUM: width},
            greatest_norm=greatest_norm, folder=folder, save_every=save_every, sealing=sealing, events=events,
        )  # fmt: skip

    def activations(
        self, rows: NDArray[np.int64], parties: Sequence[str] | None = None, quorum: int | None = None
    ) -> dict[str, Tensor]:
        """The sum of the activations, float32 ``[n, d]``, at positions ``[n]``, by the name `SUM`.

        Raises:
            InvalidOption: fewer than all parties are to answer.
            LostParty: one did not.
        """
        fewer = parties is not None and set(parties) != set(self.summands)
        if fewer or quorum not in (None, len(self.summands)):
            raise InvalidOption(
                "a sum over fewer parties",
                why="masks cancel in the sum over all, and two sums over different parties tell their difference",
                mend="Ask for all parties, or train without the secure sum.",
            )
        return super().activations(rows)

    def digests(self) -> dict[str, str]:
        """SHA-256 of each component, and of the composer."""
        found = self.channel.digests(self.round)
        return found | {name: learner.digest() for name, learner in self.mode.learners().items()}

    def leave(self, party: str) -> None:
        """Never.

        Raises:
            NeedsRetraining: always.
        """
        self.mode.without(party)

    def records(self) -> SplitRecords:
        """The run as data, party by party; asks for the digests."""
        whole = super().records()
        label_terms = {p: terms for p, terms in whole.terms.items() if p != SUM}
        terms = {p: summed_terms(self.widths[SUM], len(self.summands)) for p in self.summands}
        inputs = frozenset({"labels", *self.mode.learners(), *(f"activation:{p}" for p in self.summands)})
        return replace(
            whole,
            parties=self.summands,
            terms=terms | label_terms,
            formula=self._formula(),
            sealing={p: self._sealing.get(p, "not sealed") for p in (*self.summands, *label_terms)},
            dependencies=dict.fromkeys(self.summands, inputs),
        )

    def _formula(self) -> Bill:
        """The bill of the sums, and that of the label party."""
        found = Bill()
        books = [(self.channel.bill, p) for p in self.summands]
        books += [(self.bill, self.label_party)] if self.label_party else []
        for bill, party in books:
            found.add(party, (bill.bytes(party, "down"), bill.bytes(party, "up")))
        return found


def _require_sum(channel: Channel, parties: Sequence[str], schedule: Schedule) -> None:
    if len(set(parties)) < 3:
        raise InvalidOption(
            f"a sum over {len(set(parties))}",
            why="each of two parties learns the other's activation from the sum",
            mend="Take three parties or more.",
        )
    if schedule.absence:
        raise InvalidOption(
            f"absence={schedule.absence:g}", why="masks cancel in the sum over all parties", mend="Take absence=0."
        )
    if missing := sorted(set(parties) - set(channel.nodes())):
        raise InvalidOption(
            f"party '{missing[0]}'",
            why="the channel does not reach it",
            mend=f"The parties on the channel: {', '.join(channel.nodes())}.",
        )
    if SUM in channel.nodes():
        raise InvalidOption(f"party '{SUM}'", why="the sum itself has that name", mend="Choose another name.")
