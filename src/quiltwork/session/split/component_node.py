"""A party's end of split learning: a component, the rows of its fragment, and what it answers.

The node is given rows that its owner opened; it opens nothing itself. It learns the positions of each batch, its own
activations and the cotangents, and nothing else crosses to it (`quiltwork.session.split.words`). What is not right is
refused by a code: a round out of turn, rows that it does not have, another shape, numbers that are not finite.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.errors import InvalidOption
from quiltwork.models.split.component import MOST_PENDING, Component
from quiltwork.models.split.saving import load_component, save_component
from quiltwork.session.channel import RefusedRequest
from quiltwork.session.frames import Kind, Message, Refusal
from quiltwork.session.split.words import RESTORE, SAVE, Precision, heard, written


class ComponentNode:
    """Answers a composer for one component.

    Args:
        component: what learns.
        rows: ``[n, ...]``, this party's fragment of all cases, in the order that the parties agreed on.
        precision: how activations cross; cotangents come the same way.
        folder: where the party keeps states for resuming; None keeps none and refuses STATE.
    """

    def __init__(
        self, component: Component, rows: Tensor, *, precision: Precision = "float32", folder: Path | None = None
    ) -> None:
        self.component, self.rows = component, rows
        self._precision, self._folder = precision, folder
        self._shapes: dict[int, torch.Size] = {}
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
                return self._activation(positions, message.round)
            case Kind.COTANGENT, np.ndarray() as array:
                return self._step(heard(array), message.round)
            case Kind.OUTPUT, np.ndarray() as positions:
                found = self.component.predict(self._rows_at(positions))
                return Message(Kind.OUTPUT, message.round, found.numpy())
            case Kind.STATE, np.ndarray() as wish:
                return self._state(int(wish[0]), message.round)
            case Kind.DIGEST, None:
                return self._digest(message.round)
            case Kind.STOP, None:
                self._left = True
                return Message(Kind.DONE, message.round)
        raise RefusedRequest(Refusal.UNEXPECTED)

    def _activation(self, positions: NDArray[np.int64], round_: int) -> Message:
        rows = self._rows_at(positions)
        if round_ in self._shapes or len(self._shapes) >= (MOST_PENDING if self.component.stash else 1):
            raise RefusedRequest(Refusal.UNEXPECTED)
        found = self.component.forward(rows, round_)
        self._shapes[round_] = found.shape
        if not bool(found.isfinite().all()):
            raise RefusedRequest(Refusal.NOT_FINITE)
        return Message(Kind.ACTIVATION, round_, written(found, self._precision))

    def _step(self, cotangent: Tensor, round_: int) -> Message:
        if round_ not in self._shapes:
            raise RefusedRequest(Refusal.UNEXPECTED)
        if cotangent.shape != self._shapes[round_]:
            raise RefusedRequest(Refusal.MISFIT)
        if not bool(cotangent.isfinite().all()):
            raise RefusedRequest(Refusal.NOT_FINITE)
        del self._shapes[round_]
        self.component.backward(cotangent, round_)
        return Message(Kind.DONE, round_)

    def _state(self, wish: int, round_: int) -> Message:
        if self._folder is None or wish not in (SAVE, RESTORE):
            raise RefusedRequest(Refusal.UNEXPECTED)
        path = self._folder / f"round-{round_}.safetensors"
        if wish == RESTORE:
            try:
                load_component(self.component, path)
            except InvalidOption as error:
                raise RefusedRequest(Refusal.UNEXPECTED) from error
            self._shapes.clear()
        else:
            save_component(self.component, path)
            self._keep_two()
        return self._digest(round_)

    def _keep_two(self) -> None:
        """Keep the newest state and the one before, which the composer may not have got beyond."""
        assert self._folder is not None
        saved = sorted(self._folder.glob("round-*.safetensors"), key=lambda p: int(p.stem.split("-")[1]))
        for path in saved[:-2]:
            path.unlink()

    def _digest(self, round_: int) -> Message:
        return Message(Kind.DIGEST, round_, np.frombuffer(bytes.fromhex(self.component.digest()), dtype=np.uint8))

    def _rows_at(self, positions: NDArray[np.int64]) -> Tensor:
        if ((positions < 0) | (positions >= len(self.rows))).any():
            raise RefusedRequest(Refusal.UNKNOWN_ROWS)
        return self.rows[torch.from_numpy(positions)]
