"""A shared linear head over a channel: any t custodians that are up answer, and the head is put together nowhere.

    down   ACTIVATION  float32 [b, d]        up   SHARE  uint64 [b, k]        (`quiltwork.sharing.threshold_head`)

Since d + 1 exact answers would give a custodian's whole share, each custodian counts the rows that it answers, and
stops at a number that its owner sets.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import AlteredFrame, InvalidOption, LostParty
from quiltwork.session.channel import Channel, RefusedRequest, Terms
from quiltwork.session.frames import Kind, Message, Refusal, Spec
from quiltwork.sharing.head_share import Grid, HeadShare
from quiltwork.sharing.prime_field import Residues
from quiltwork.sharing.threshold_head import combine_logits


class CustodianNode:
    """Answers inputs with its share of their logits.

    Args:
        share: what this custodian holds.
        most_rows: how many rows it answers in all; None sets no bound, and so lets its share be computed.
    """

    def __init__(self, share: HeadShare, most_rows: int | None = None) -> None:
        self._share, self._left = share, most_rows

    def handle(self, message: Message) -> Message:
        """The answer to one message.

        Raises:
            RefusedRequest: UNEXPECTED for another kind, LEFT once the rows are used up, NOT_FINITE or MISFIT for
                inputs that the grid does not take.
        """
        if message.kind is not Kind.ACTIVATION or message.array is None:
            raise RefusedRequest(Refusal.UNEXPECTED)
        if self._left is not None and len(message.array) > self._left:
            raise RefusedRequest(Refusal.LEFT)
        if not np.isfinite(message.array).all():
            raise RefusedRequest(Refusal.NOT_FINITE)
        try:
            answer = self._share.answer(message.array)
        except InvalidOption as error:
            raise RefusedRequest(Refusal.MISFIT) from error
        if self._left is not None:
            self._left -= len(message.array)
        return Message(Kind.SHARE, message.round, answer)


def custodian_terms(width: int, classes: int) -> Terms:
    """What may be said to a custodian of a head of k classes over d inputs."""
    return Terms(
        down={Kind.ACTIVATION: Spec("float32", (None, width))}, up={Kind.SHARE: Spec("uint64", (None, classes))}
    )


def threshold_logits(
    channel: Channel,
    inputs: NDArray[np.float32],
    *,
    holders: Mapping[str, int],
    threshold: int,
    grid: Grid,
    round_: int = 0,
    checks: int = 0,
) -> NDArray[np.float64]:
    """Logits ``[b, k]``, from the first custodians that answer.

    Args:
        channel: to `CustodianNode` s.
        inputs: float32 ``[b, d]``; the custodians see them.
        holders: the point of each custodian, by name; they are asked in the order of the names.
        threshold: as dealt.
        grid: on which the head was dealt.
        round_: of the session.
        checks: how many answers beyond the threshold are wanted, to find false ones: one finds, two name a single one.

    Raises:
        LostParty: fewer than ``threshold + checks`` custodians answer.
        ForgedShare: answers contradict each other.
        AlteredFrame: a custodian answered something else.
    """
    answers: dict[int, Residues] = {}
    lost: list[LostParty] = []
    for name in sorted(holders):
        if len(answers) == threshold + checks:
            break
        try:
            reply = channel.call(name, Message(Kind.ACTIVATION, round_, inputs))
        except LostParty as error:
            lost.append(error)
        else:
            answers[holders[name]] = _share_of(name, reply, round_, len(inputs))
    if len(answers) < threshold + checks:
        raise LostParty(
            f"{len(answers)} of {len(holders)} custodians",
            why=f"{threshold + checks} answers are needed; "
            + " ".join(f"{error.what}: {error.why}." for error in lost),
            mend="Bring up more custodians, or ask for fewer checks.",
        )
    return combine_logits(answers, threshold=threshold, grid=grid)


def _share_of(name: str, reply: Message, round_: int, rows: int) -> Residues:
    if reply.kind is not Kind.SHARE or reply.array is None or reply.round != round_ or len(reply.array) != rows:
        raise AlteredFrame(
            f"the answer of '{name}'",
            why=f"it is not a share of {rows} rows in round {round_}",
            mend="End the session; the custodian does not keep to its declaration.",
        )
    return reply.array
