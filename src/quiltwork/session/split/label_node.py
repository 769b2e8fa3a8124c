"""The label party's end, where it is another than the composer: logits in, cotangents out.

    COTANGENT = dL/dlogits of the rows of the round

The labels never cross; what does is enough to tell most of them (softmax(logits) - cotangent * b is the label's
indicator), so labels that must stay secret have to be randomised before the first step.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.errors import InvalidOption
from quiltwork.models.split.targets import Target
from quiltwork.session.channel import RefusedRequest
from quiltwork.session.frames import Kind, Message, Refusal


class LabelNode:
    """Answers a composer for the labels.

    Args:
        target: labels and loss, by row of the agreed order.
        rows: number of rows of the agreed order.
    """

    def __init__(self, target: Target, rows: int) -> None:
        self._target, self._count = target, rows
        self._round: tuple[int, Tensor] | None = None
        self._loss: float | None = None
        self._left = False

    def handle(self, message: Message) -> Message:
        """The answer to one message.

        Raises:
            RefusedRequest: with the byte that says why.
        """
        if self._left:
            raise RefusedRequest(Refusal.LEFT)
        match message.kind, message.array:
            case Kind.ROWS, np.ndarray() as positions:
                return self._begin(positions, message.round)
            case Kind.ACTIVATION, np.ndarray() as logits:
                return self._cotangent(torch.from_numpy(logits), message.round)
            case Kind.LOSS, None if self._loss is not None:
                return Message(Kind.LOSS, message.round, np.array([self._loss]))
            case Kind.LABELS, None:
                return Message(Kind.LABELS, message.round, self._target.prior().numpy())
            case Kind.STOP, None:
                self._left = True
                return Message(Kind.DONE, message.round)
        raise RefusedRequest(Refusal.UNEXPECTED)

    def _begin(self, positions: NDArray[np.int64], round_: int) -> Message:
        if ((positions < 0) | (positions >= self._count)).any():
            raise RefusedRequest(Refusal.UNKNOWN_ROWS)
        self._round = round_, torch.from_numpy(positions)
        return Message(Kind.DONE, round_)

    def _cotangent(self, logits: Tensor, round_: int) -> Message:
        if self._round is None or self._round[0] != round_:
            raise RefusedRequest(Refusal.UNEXPECTED)
        rows = self._round[1]
        if logits.shape != (len(rows), self._target.outputs):
            raise RefusedRequest(Refusal.MISFIT)
        if not bool(logits.isfinite().all()):
            raise RefusedRequest(Refusal.NOT_FINITE)
        try:
            cotangent, self._loss = self._target.answer(logits, rows)
        except InvalidOption as error:
            raise RefusedRequest(Refusal.UNKNOWN_ROWS) from error
        return Message(Kind.COTANGENT, round_, cotangent.numpy())
