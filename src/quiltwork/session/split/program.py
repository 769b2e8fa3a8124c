"""Program mode: the composer is a known program over symbols, and learns nothing itself.

Each party's activations are the logits of its symbols; the composer knows f and sees what f put out:

    p_i = softmax(h_i)        L = -log P(y),  P(y) = sum over s with f(s) = y of prod_i p_i(s_i)
    cotangent(i)[k] = p_i(k) - P(s_i = k | y), over the batch size

Log P takes the place of joint mode's logits, so who holds the labels, and whether they were randomised, is the
labels' affair: with the transition T of a randomised response in the target (`quiltwork.models.split.targets`) the
loss is -log sum_a P(a) T[a, y], the likelihood of what was released.

What components learn is what f needs to be right, and that need not be what their owner would call the symbol: see
`quiltwork.session.split.identifiable`. And a cotangent is the likelihood of each own symbol given the label and all
other operands, so it tells of both: see `quiltwork.session.split.program_leak`.

A party that is absent stands for symbols of which nothing is known: its p_i is uniform.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from quiltwork.errors import InvalidOption, NeedsRetraining
from quiltwork.models.split.component import Component
from quiltwork.models.split.seeds import seed_of
from quiltwork.session.split.labels import Labels
from quiltwork.session.split.mode import Lesson

INFERRED = 64
"""Rows that are inferred at once, since a program's states are held for each."""


class Program(Protocol):
    """What symbols become, as probabilities: `programs.Fold` is exact, `program_sampling.Sampled` draws."""

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of symbols of each operand."""
        ...

    @property
    def outcomes(self) -> tuple[Hashable, ...]:
        """What it can put out."""
        ...

    def log_outcomes(self, logs: Sequence[Tensor], seed: int = 0) -> Tensor:
        """Log P(y), float64 ``[b, outcomes]``, of log p_i, float64 ``[b, K_i]`` for each operand."""
        ...


class Programmed:
    """A known program over all components.

    Args:
        program: what it is.
        operands: the party of each operand, in the program's order; one that holds several operands is named as
            often, and its activations are their logits side by side.
        seed: the session's master seed; programs that are sampled draw from it and the round.

    Raises:
        InvalidOption: not one party for each operand.
    """

    def __init__(self, program: Program, operands: Sequence[str], *, seed: int = 0) -> None:
        if len(operands) != len(program.sizes):
            raise InvalidOption(
                f"operands {', '.join(operands)}",
                why=f"the program has {len(program.sizes)} operands",
                mend="Name the party of each, in the program's order.",
            )
        self.program, self.operands, self._seed = program, tuple(operands), seed

    @property
    def name(self) -> str:
        """``program``."""
        return "program"

    @property
    def widths(self) -> dict[str, int]:
        """Logits that each party's component puts out, by party."""
        return {party: sum(self._sizes(party)) for party in sorted(set(self.operands))}

    def learners(self) -> Mapping[str, Component]:
        """None: a program has no parameters."""
        return {}

    def learn(self, activations: Mapping[str, Tensor], labels: Labels, round_: int) -> Lesson:
        """Cotangents of all that are present.

        Raises:
            InvalidOption: the labels are not of as many outcomes as the program has, or an activation does not fit.
        """
        self._require_outcomes(labels.outputs)
        leaves = {party: h.detach().requires_grad_() for party, h in activations.items()}
        logits = self.program.log_outcomes(self._logs(leaves), seed_of(self._seed, f"program/{round_}"))
        cotangent, loss = labels.answer(logits.detach().float())
        found = torch.autograd.grad(logits, list(leaves.values()), cotangent.double())
        return Lesson(dict(zip(leaves, found, strict=True)), {self.name: loss})

    def infer(self, activations: Mapping[str, Tensor]) -> Tensor:
        """Log-probabilities of the outcomes, float64 ``[b, outcomes]``."""
        seed = seed_of(self._seed, "program/infer")
        with torch.no_grad():
            blocks = zip(*(log.split(INFERRED) for log in self._logs(activations)), strict=True)
            return torch.log_softmax(torch.cat([self.program.log_outcomes(block, seed) for block in blocks]), 1)

    def symbols(self, activations: Mapping[str, Tensor]) -> Tensor:
        """The most probable symbol of each operand, int64 ``[b, n]``, as its own party reads it."""
        return torch.stack([log.argmax(1) for log in self._logs(activations)], 1)

    def without(self, party: str) -> Programmed:
        """Never.

        Raises:
            NeedsRetraining: always.
        """
        raise NeedsRetraining(
            f"party '{party}'",
            why="the program reads its symbols, and every other component was trained through them",
            mend="Train again with a program that does without it; to predict without it, ask for a quorum.",
        )

    def dependencies(self) -> Mapping[str, frozenset[str]]:
        """Labels and everybody's activations; the program itself is fixed before the first round."""
        inputs = frozenset({"labels", *(f"activation:{party}" for party in self.operands)})
        return dict.fromkeys(self.widths, inputs)

    def _sizes(self, party: str) -> list[int]:
        return [size for who, size in zip(self.operands, self.program.sizes, strict=True) if who == party]

    def _logs(self, activations: Mapping[str, Tensor]) -> list[Tensor]:
        """Log p_i of every operand, float64 ``[b, K_i]``."""
        rows = len(next(iter(activations.values())))
        parts = {party: iter(self._parts(party, activations.get(party), rows)) for party in self.widths}
        return [next(parts[party]) for party in self.operands]

    def _parts(self, party: str, activation: Tensor | None, rows: int) -> list[Tensor]:
        sizes = self._sizes(party)
        if activation is None:
            activation = torch.zeros(rows, sum(sizes))
        if activation.shape != (rows, sum(sizes)):
            raise InvalidOption(
                f"activations of party '{party}'",
                why=f"they have shape {tuple(activation.shape)}, and ({rows}, {sum(sizes)}) is due",
                mend=f"End its module with one logit a symbol: {' + '.join(map(str, sizes))}.",
            )
        return [torch.log_softmax(part, 1) for part in activation.double().split(sizes, 1)]

    def _require_outcomes(self, outputs: int) -> None:
        if outputs != len(self.program.outcomes):
            raise InvalidOption(
                f"labels of {outputs} classes",
                why=f"the program has {len(self.program.outcomes)} outcomes",
                mend="Number them by `labels` of the program, and give the target as many classes.",
            )
