"""Joint mode: one loss, differentiated through all components (SplitNN, arXiv 1812.00564).

    L = loss(g(h_1, ..., h_n), Y)         cotangent(i) = dL/dh_i

The parameters of all after any number of rounds are those of one process that trains the whole graph, bit for bit.
The price: cotangent(i) depends on every other party's activation, directly and through g, so

    cotangent(i) <- {Y, h_1, ..., h_n, g}

and no party can be taken out of what the others learned with it. Where a party is absent its activation is zero, and
the others' are scaled by n over the number present, so that a composer trained with absences serves any quorum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from quiltwork.errors import NeedsRetraining
from quiltwork.models.split.component import Component
from quiltwork.session.split.labels import Labels
from quiltwork.session.split.mode import Lesson


class Joint:
    """One composer over all components.

    Args:
        composer: its module takes the list of activations, sorted by party, and gives logits ``[b, k]``.
        widths: of the activations, by party.
        classes: whether the logits are of classes; numbers otherwise.
    """

    def __init__(self, composer: Component, widths: Mapping[str, int], *, classes: bool = True) -> None:
        self.composer, self.widths, self.classes = composer, dict(sorted(widths.items())), classes

    @property
    def name(self) -> str:
        """``joint``."""
        return "joint"

    def learners(self) -> Mapping[str, Component]:
        """The composer."""
        return {self.composer.name: self.composer}

    def learn(self, activations: Mapping[str, Tensor], labels: Labels, round_: int) -> Lesson:
        """Cotangents of all that are present, and a step of the composer."""
        leaves = {party: h.detach().requires_grad_() for party, h in activations.items()}
        with self.composer.drawing(round_):
            logits = self.composer.module(self._filled(leaves))
        cotangent, loss = labels.answer(logits.detach())
        if logits.requires_grad:
            logits.backward(cotangent)
        self.composer.step()
        found = {p: torch.zeros_like(h) if h.grad is None else h.grad for p, h in leaves.items()}
        return Lesson(found, {self.composer.name: loss})

    def infer(self, activations: Mapping[str, Tensor]) -> Tensor:
        """Log-probabilities, or numbers."""
        module = self.composer.module.eval()
        try:
            with torch.no_grad():
                logits: Tensor = module(self._filled(activations))
        finally:
            module.train()
        return torch.log_softmax(logits.double(), 1) if self.classes else logits.double()

    def without(self, party: str) -> Joint:
        """Never.

        Raises:
            NeedsRetraining: always.
        """
        raise NeedsRetraining(
            f"party '{party}'",
            why="in joint mode every other component was trained through its activations",
            mend="Train again without it, or use isolated mode, in which leaving is exact.",
        )

    def dependencies(self) -> Mapping[str, frozenset[str]]:
        """Labels, everybody's activations, and the composer."""
        inputs = frozenset({"labels", self.composer.name, *(f"activation:{party}" for party in self.widths)})
        return dict.fromkeys(self.widths, inputs)

    def _filled(self, activations: Mapping[str, Tensor]) -> Sequence[Tensor]:
        """The activations of all parties: zero for an absent one, the others scaled up."""
        if len(activations) == len(self.widths):
            return [activations[party] for party in self.widths]
        some = next(iter(activations.values()))
        scale = len(self.widths) / len(activations)
        return [
            activations[party] * scale if party in activations else some.new_zeros(len(some), width)
            for party, width in self.widths.items()
        ]
