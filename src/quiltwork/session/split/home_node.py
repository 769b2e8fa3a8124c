"""A party's end where its component was trained at home: it puts out other rows than those, and learns nothing.

A component whose parameters are private in each record covers nothing that is computed from the record's own row and
sent: h(x_j) is x_j through a known function. So rows that were trained on are refused here, and so is everything that
would teach: what a composer asks for in excess does not rest on its own restraint.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.models.split.component import Component
from quiltwork.session.channel import RefusedRequest
from quiltwork.session.frames import Kind, Message, Refusal
from quiltwork.session.split.component_node import ComponentNode


class HomeNode:
    """Answers a composer for a component that is finished.

    Args:
        component: what was trained.
        rows: ``[n, ...]``, this party's fragment of all cases.
        trained: int64, positions of the rows that it was trained on.
        folder: where the component is saved; None refuses STATE.

    Attributes:
        component: as given.
    """

    def __init__(
        self, component: Component, rows: Tensor, trained: NDArray[np.int64], *, folder: Path | None = None
    ) -> None:
        self.component = component
        self._node = ComponentNode(component, rows, folder=folder)
        self._trained = np.array(trained, dtype=np.int64)

    def handle(self, message: Message) -> Message:
        """The answer to one message.

        Raises:
            RefusedRequest: with the byte that says why.
        """
        if message.kind in (Kind.ROWS, Kind.COTANGENT):
            raise RefusedRequest(Refusal.UNEXPECTED)
        if message.kind is Kind.OUTPUT and message.array is not None and np.isin(message.array, self._trained).any():
            raise RefusedRequest(Refusal.UNKNOWN_ROWS)
        return self._node.handle(message)
