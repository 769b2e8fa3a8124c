"""A secure sum over a channel: the composer gets the sum of what parties answer, and no answer by itself.

One round, for n parties that answer b rows of d numbers (`quiltwork.sharing.secure_sum` has the masks):

    down   KEY     uint8 [0, 96]      asks for an offer            up   KEY     uint8 [96]
    down   KEY     uint8 [n, 96]      everybody's offers           up   DONE
    down   ROWS or OUTPUT             the question itself          up   MASKED  uint64 [b, d]

The first two name the number of the sum, which only goes up; the question names the round of the session, in which
several sums may be asked for. `SummandNode` stands before a party's own node, and binds the masks to the question.
What that node answers as ACTIVATION or OUTPUT leaves under masks or not at all, and the terms have no kind by which
it could. The cotangent of the sum, which the chain rule gives to each summand, is sent on as it is; it tells of the
others what their sum tells.

If a party falls silent the sum is lost, and `secure_sum` says whose answer is missing; there is no recovery. A later
one works again if the party is back; without it the others need nodes with a new roster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import AlteredFrame, InvalidOption, LostParty
from quiltwork.session.channel import Channel, Node, RefusedRequest, Terms
from quiltwork.session.frames import Kind, Message, Refusal, Spec, frame_bytes
from quiltwork.sharing.secure_sum import OFFER_BYTES, Member, SumGrid, unmask

_ASKED = (Kind.ROWS, Kind.OUTPUT)
_SUMMED = (Kind.ACTIVATION, Kind.OUTPUT)
_PASSED = (Kind.DONE, Kind.DIGEST)
_NEVER = -1


class SummandNode:
    """Puts a party's answers under masks.

    Args:
        inner: the party's own node.
        member: the party in the sum.
    """

    def __init__(self, inner: Node, member: Member) -> None:
        self._inner, self._member = inner, member
        self._number = _NEVER

    def handle(self, message: Message) -> Message:
        """The answer to one message.

        Raises:
            RefusedRequest: a question before the parties met for it, a second one after they met, an offer that is not
                its party's, or an answer that does not fit the grid.
        """
        if message.kind is Kind.KEY and message.array is not None:
            return self._keys(message.round, message.array)
        if message.kind in _ASKED and not self._member.ready(self._number):
            raise RefusedRequest(Refusal.UNEXPECTED)
        reply = self._inner.handle(message)
        if reply.kind in _PASSED:
            return reply
        if reply.kind not in _SUMMED or reply.array is None:
            raise RefusedRequest(Refusal.UNEXPECTED)
        return Message(Kind.MASKED, message.round, self._masked(message, reply.array))

    def _keys(self, number: int, offers: NDArray[np.uint8]) -> Message:
        try:
            if not len(offers):
                offer = self._member.offer(number)
                self._number = number
                return Message(Kind.KEY, number, np.frombuffer(offer, dtype=np.uint8))
            self._member.meet(number, [offer.tobytes() for offer in offers])
        except InvalidOption as error:
            raise RefusedRequest(Refusal.UNEXPECTED) from error
        except AlteredFrame as error:
            raise RefusedRequest(Refusal.MISFIT) from error
        return Message(Kind.DONE, number)

    def _masked(self, question: Message, values: NDArray[Any]) -> NDArray[np.uint64]:
        if not np.isfinite(values).all():
            raise RefusedRequest(Refusal.NOT_FINITE)
        try:
            return self._member.mask(self._number, values, _told(question))
        except InvalidOption as error:
            raise RefusedRequest(Refusal.MISFIT) from error


def _told(question: Message) -> bytes:
    """The question as bytes, so that the masks depend on it."""
    array = np.zeros(0, np.int64) if question.array is None else question.array
    return bytes([question.kind]) + question.round.to_bytes(8, "little") + array.astype("<i8").tobytes()


def summand_terms(inner: Terms, parties: int) -> Terms:
    """What may be said to a party of a sum: the inner node's terms, with masked answers in place of its own.

    Raises:
        InvalidOption: the inner node's answers are no float32 arrays.
    """
    answers = {kind: spec for kind, spec in inner.up.items() if kind in _SUMMED}
    shapes = {spec.shape for spec in answers.values()}
    if len(shapes) != 1 or any(spec.dtype != "float32" for spec in answers.values()):
        raise InvalidOption(
            "the terms of a summand", why="its answers are not float32 of one shape", mend="Sum float32 activations."
        )
    spec = next(iter(answers.values()))
    up = {kind: spec for kind, spec in inner.up.items() if kind in (*_PASSED, Kind.REFUSED)}
    return Terms(
        down={**inner.down, Kind.KEY: Spec("uint8", (None, OFFER_BYTES), most=parties)},
        up={
            **up,
            Kind.DONE: Spec(),
            Kind.KEY: Spec("uint8", (OFFER_BYTES,)),
            Kind.MASKED: Spec("uint64", spec.shape, spec.most),
        },
    )


def sum_bytes(parties: int, rows: int, width: int) -> tuple[int, int]:
    """Bytes of one party's part in a sum, down and up, for a question of ``rows`` positions.

    >>> sum_bytes(4, 64, 10)
    (1058, 5378)
    """
    keys = frame_bytes("uint8", (0, OFFER_BYTES)) + frame_bytes("uint8", (parties, OFFER_BYTES))
    answers = frame_bytes("uint8", (OFFER_BYTES,)) + frame_bytes(None) + frame_bytes("uint64", (rows, width))
    return keys + frame_bytes("int64", (rows,)), answers


def secure_sum(
    channel: Channel,
    question: Message,
    grid: SumGrid | None = None,
    *,
    number: int | None = None,
    parties: Sequence[str] | None = None,
) -> NDArray[np.float64]:
    """The sum over all parties of their answers to one question, float64 ``[b, d]``.

    Args:
        channel: to `SummandNode` s.
        question: ROWS or OUTPUT.
        grid: that of the parties; ``SumGrid()`` where not given.
        number: of the sum, larger than that of every sum before; the question's round where not given.
        parties: the whole roster; all nodes of the channel where not given.

    Raises:
        LostParty: a party is gone, silent or refuses. The sum is lost; all others have been heard, so that the channel
            is ready for a new one.
        AlteredFrame: a party answered something else.
    """
    number = question.round if number is None else number
    roster = sorted(channel.nodes() if parties is None else parties)
    empty = np.zeros((0, OFFER_BYTES), dtype=np.uint8)
    offers = together(channel, roster, Message(Kind.KEY, number, empty), Kind.KEY)
    every = np.stack([offers[name] for name in roster])
    together(channel, roster, Message(Kind.KEY, number, every), Kind.DONE)
    masked = together(channel, roster, question, Kind.MASKED)
    return (SumGrid() if grid is None else grid).decode(unmask(masked, roster))


def together(channel: Channel, parties: Sequence[str], message: Message, wanted: Kind) -> Mapping[str, NDArray[Any]]:
    """What all parties answer to one message; nobody's answer is left in the channel, whoever is lost.

    Raises:
        LostParty: the first that is gone, silent or refuses.
        AlteredFrame: an answer is of another kind or round.
    """
    asked, lost, answers = [], [], {}
    for name in parties:
        try:
            channel.push(name, message)
            asked.append(name)
        except LostParty as error:
            lost.append(error)
    for name in asked:
        try:
            answers[name] = channel.pull(name)
        except LostParty as error:
            lost.append(error)
    if lost:
        raise lost[0]
    for name, answer in answers.items():
        if answer.kind is not wanted or answer.round != message.round:
            raise AlteredFrame(
                f"the answer of '{name}'",
                why=f"it is {answer.kind.name} of round {answer.round}, and {wanted.name} of {message.round} is due",
                mend="End the session; the party does not keep to the order of a sum.",
            )
    return {name: np.zeros(0) if answer.array is None else answer.array for name, answer in answers.items()}
