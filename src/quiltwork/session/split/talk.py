"""Talking to components: every answer is checked against what is due before a number of it is used.

An answer counts only if it is of the kind, round and shape that were asked for, finite, and no longer than the norm
that was agreed; anything else ends the session with the party's name. Answers that are still due when a round is
broken off are counted, so that the channel can be emptied and used again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from quiltwork.errors import SessionError
from quiltwork.session.channel import Channel
from quiltwork.session.frames import Kind, Message
from quiltwork.session.split.words import heard


class Talk:
    """A composer's side of the words.

    Args:
        channel: to the parties.
        greatest_norm: largest Euclidean norm of one row of an activation.
    """

    def __init__(self, channel: Channel, greatest_norm: float = math.inf) -> None:
        self.channel, self._greatest = channel, greatest_norm
        self._due: Counter[str] = Counter()

    def push(self, party: str, message: Message) -> None:
        """Say something; its answer is due."""
        self.channel.push(party, message)
        self._due[party] += 1

    def pull(self, party: str, kind: Kind, round_: int) -> Message:
        """The next answer, which must be of a kind and a round.

        Raises:
            SessionError: it is another.
            LostParty: there is none.
        """
        self._due[party] -= 1
        reply = self.channel.pull(party)
        if reply.kind is not kind or reply.round != round_:
            raise broken(party, round_, f"it answered {reply.kind.name} of round {reply.round}, {kind.name} is due")
        return reply

    def values(self, party: str, kind: Kind, round_: int, rows: int, width: int) -> Tensor:
        """The next answer as sound float32 ``[rows, width]``.

        Raises:
            SessionError: it has another shape, is not finite or is too long.
        """
        array = self.pull(party, kind, round_).array
        found = torch.empty(0) if array is None else heard(array)
        if found.shape != (rows, width):
            raise broken(party, round_, f"it sent shape {tuple(found.shape)}, and ({rows}, {width}) is due")
        if not bool(found.isfinite().all()):
            raise broken(party, round_, "it sent numbers that are not finite")
        if self._greatest < math.inf and float(found.norm(dim=1).max()) > self._greatest:
            raise broken(party, round_, f"it sent a row longer than the agreed norm of {self._greatest:g}")
        return found

    def digest(self, party: str, message: Message) -> str:
        """The digest that answers a message, in hexadecimal."""
        self.push(party, message)
        array = self.pull(party, Kind.DIGEST, message.round).array
        assert array is not None
        return bytes(np.asarray(array, dtype=np.uint8)).hex()

    def settle(self, parties: Iterable[str]) -> None:
        """Take in and drop every answer that is still due, whatever it is; a lost party has none."""
        for party in parties:
            for _ in range(self._due.pop(party, 0)):
                try:
                    self.channel.pull(party)
                except SessionError:
                    continue


def broken(party: str, round_: int, why: str) -> SessionError:
    """The error about a party that does not keep to the words."""
    return SessionError(
        f"party '{party}' in round {round_}",
        why=why,
        mend="End the session or leave the party out; it does not keep to the protocol.",
    )
