"""What a mode is: activations and labels in, cotangents out, and a statement of what each cotangent depends on.

A mode computes; it does not talk. `quiltwork.session.split.run` carries its activations and cotangents.

    learn         {h_i}, Y  ->  {dL/dh_i}, and a step of whatever the mode itself learns
    infer         {h_i}     ->  log-probabilities (or numbers)
    dependencies  party     ->  everything that its cotangents are a function of

The last is the declaration from which a certificate says what a party can learn at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from quiltwork.models.split.component import Component
from quiltwork.session.split.labels import Labels


@dataclass(frozen=True)
class Lesson:
    """What a mode answers to the activations of a round.

    Attributes:
        cotangents: float32 ``[b, d]`` by party.
        losses: the loss by whose it is: ``"composer"`` for one that is joint, else by party.
    """

    cotangents: Mapping[str, Tensor]
    losses: Mapping[str, float]


class Mode(Protocol):
    """How activations become cotangents."""

    @property
    def name(self) -> str:
        """As it stands in records."""
        ...

    def learners(self) -> Mapping[str, Component]:
        """What the mode itself learns, by name."""
        ...

    def learn(self, activations: Mapping[str, Tensor], labels: Labels, round_: int) -> Lesson:
        """Cotangents of the parties that are present."""
        ...

    def infer(self, activations: Mapping[str, Tensor]) -> Tensor:
        """Log-probabilities ``[b, k]`` or numbers ``[b, 1]`` from the parties that are present."""
        ...

    def without(self, party: str) -> Mode:
        """The mode after a party has left, exactly as if it had never been there.

        Raises:
            NeedsRetraining: there is no such thing.
        """
        ...

    def dependencies(self) -> Mapping[str, frozenset[str]]:
        """By party, the inputs of its cotangents: ``"labels"``, ``"activation:<party>"``, ``"<learner>"``."""
        ...
