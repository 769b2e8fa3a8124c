"""Where a mode gets cotangents of logits from: labels in this process, or the label party over the channel.

Both answer alike, so a mode does not know who holds the labels; cutting the graph at the logits changes no bit.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from quiltwork.errors import SessionError
from quiltwork.models.split.targets import Target
from quiltwork.session.channel import Channel
from quiltwork.session.frames import Kind, Message
from quiltwork.session.split.bill import Bill, answer_bytes, prior_bytes, rows_bytes


class Labels(Protocol):
    """Whoever answers logits with cotangents."""

    @property
    def outputs(self) -> int:
        """Number of logits a row."""
        ...

    def begin(self, rows: Tensor, round_: int) -> None:
        """Turn to the rows of a round."""
        ...

    def answer(self, logits: Tensor) -> tuple[Tensor, float]:
        """Cotangents ``[b, k]`` at logits ``[b, k]`` of the round's rows, and the loss."""
        ...

    def prior(self) -> Tensor:
        """What is known of a label before any row is seen: float64 ``[k]``."""
        ...


class OwnLabels:
    """Labels that the composer holds.

    Args:
        target: labels and loss.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self._rows = torch.empty(0, dtype=torch.int64)

    @property
    def outputs(self) -> int:
        """Number of logits a row."""
        return self.target.outputs

    def begin(self, rows: Tensor, round_: int) -> None:  # noqa: ARG002 - the signature of both
        """Turn to the rows of a round."""
        self._rows = rows

    def answer(self, logits: Tensor) -> tuple[Tensor, float]:
        """Cotangents and loss."""
        return self.target.answer(logits, self._rows)

    def prior(self) -> Tensor:
        """The target's prior."""
        return self.target.prior()


class PartyLabels:
    """Labels of a party on the channel.

    Args:
        channel: where it is.
        party: its name.
        outputs: number of logits a row.

    Attributes:
        bill: what its answers must have cost.
    """

    def __init__(self, channel: Channel, party: str, outputs: int) -> None:
        self._channel, self.party, self._outputs = channel, party, outputs
        self.bill = Bill()
        self._round = 0

    @property
    def outputs(self) -> int:
        """Number of logits a row."""
        return self._outputs

    def begin(self, rows: Tensor, round_: int) -> None:
        """Tell the party the rows of a round."""
        self._round = round_
        self._ask(Message(Kind.ROWS, round_, rows.numpy()), Kind.DONE)
        self.bill.add(self.party, rows_bytes(len(rows)))

    def answer(self, logits: Tensor) -> tuple[Tensor, float]:
        """Cotangents and loss, from the party."""
        cotangent = self._ask(Message(Kind.ACTIVATION, self._round, logits.detach().numpy()), Kind.COTANGENT)
        loss = self._ask(Message(Kind.LOSS, self._round), Kind.LOSS)
        self.bill.add(self.party, answer_bytes(len(logits), self._outputs))
        if cotangent.shape != logits.shape or not bool(cotangent.isfinite().all()):
            raise SessionError(
                f"label party '{self.party}'",
                why=f"its cotangents of round {self._round} do not fit the logits, or are not finite",
                mend="Look at its labels and its loss.",
            )
        return cotangent, float(loss[0])

    def prior(self) -> Tensor:
        """The party's prior; one release, which the log counts."""
        found = self._ask(Message(Kind.LABELS, self._round), Kind.LABELS)
        self.bill.add(self.party, prior_bytes(self._outputs))
        return found

    def _ask(self, message: Message, due: Kind) -> Tensor:
        reply = self._channel.call(self.party, message)
        if reply.kind is not due or reply.round != message.round:
            raise SessionError(
                f"label party '{self.party}'",
                why=f"it answered {message.kind.name} with {reply.kind.name} of round {reply.round}",
                mend="End the session; the party does not keep to the protocol.",
            )
        return torch.empty(0) if reply.array is None else torch.from_numpy(reply.array)
