"""Isolated mode: a head and a loss for each component, outputs composed afterwards.

    L_i = loss(g_i(h_i), Y)         cotangent(i) = dL_i/dh_i         cotangent(i) <- {Y, h_i, g_i}

What a party gets is a function of the labels and of its own fragment. It follows, and is tested by hashes, that

- *no interference*: replace all other fragments by noise, and component i comes out the same bit for bit;
- *exact opt-out*: when a party leaves, what remains is what would be there had it never come.

The price: where no fragment alone tells anything of the label (XOR), nothing is learned.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quiltwork.errors import InvalidOption
from quiltwork.models.split.component import Component
from quiltwork.session.split.labels import Labels
from quiltwork.session.split.mode import Lesson
from quiltwork.session.split.outputs import Composition


class Isolated:
    """One head a component.

    Args:
        heads: by party; each maps that party's activations ``[b, d]`` to logits ``[b, k]``.
        composition: how the heads' outputs become one.
        classes: whether the logits are of classes; numbers otherwise.
    """

    def __init__(self, heads: Mapping[str, Component], composition: Composition, *, classes: bool = True) -> None:
        self.heads, self.composition, self.classes = dict(sorted(heads.items())), composition, classes

    @property
    def name(self) -> str:
        """``isolated``."""
        return "isolated"

    def learners(self) -> Mapping[str, Component]:
        """The heads, by name."""
        return {head.name: head for head in self.heads.values()}

    def learn(self, activations: Mapping[str, Tensor], labels: Labels, round_: int) -> Lesson:
        """Each party's cotangents from its own head, and a step of each head."""
        cotangents, losses = {}, {}
        for party, activation in activations.items():
            head = self.heads[party]
            leaf = activation.detach().requires_grad_()
            with head.drawing(round_):
                logits: Tensor = head.module(leaf)
            cotangent, losses[party] = labels.answer(logits.detach())
            logits.backward(cotangent)
            head.step()
            cotangents[party] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        return Lesson(cotangents, losses)

    def outputs(self, activations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """By party, log-probabilities float64 ``[b, k]`` or numbers ``[b, 1]`` of its own head."""
        found = {party: self.heads[party].predict(h).double() for party, h in sorted(activations.items())}
        return {p: torch.log_softmax(logits, 1) if self.classes else logits for p, logits in found.items()}

    def infer(self, activations: Mapping[str, Tensor]) -> Tensor:
        """The heads' outputs, composed."""
        return self.composition.compose(self.outputs(activations))

    def without(self, party: str) -> Isolated:
        """The other heads as they are, and the composition without the party.

        Raises:
            InvalidOption: it is the last one.
        """
        heads = {name: head for name, head in self.heads.items() if name != party}
        if not heads:
            raise InvalidOption(f"party '{party}'", why="it is the last one", mend="End the session.")
        return Isolated(heads, self.composition.without(party), classes=self.classes)

    def dependencies(self) -> Mapping[str, frozenset[str]]:
        """Labels, the party's own activation and its own head."""
        return {p: frozenset({"labels", f"activation:{p}", head.name}) for p, head in self.heads.items()}
