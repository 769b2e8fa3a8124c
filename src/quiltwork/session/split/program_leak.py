"""What a cotangent of a program tells its party, counted before any training.

The party knows its own p_i, so from its cotangent c it computes, for every symbol k that it could have read,

    P(y | s_i = k) / P(y) = 1 - b c[k] / p_i(k)                b the size of the batch

which is 0 where no symbols of the others make k an outcome y. The set of such k alone, with no other knowledge, tells
outcomes apart (the algebraic attack: of a sum of two digits every one, of a sum modulo 10 none), and with the party's
own symbol, known once its component is right, it narrows the others' symbols down. With symbols uniform on the grid,

    label_bits     H(G),  G the set of excluded symbols         of H(y) bits that the label has
    others_bits    H(s_{-i}) - H(s_{-i} | G, s_i)               of H(s_{-i}) bits that the others' symbols have

are computed from shares of tuples, by one pass forward and one back through the fold. They are what *zeros* tell, a
lower bound: the sizes of what is not excluded tell more, above all while the others are sure of their symbols. And
zeros are exact only in exact arithmetic: probabilities that are very small read as zero, which is the attack's error.
Labels that were randomised before the first step make G deniable, as they do the label.

>>> from quiltwork.session.split.programs import total
>>> print(leaks(total([10, 10]))[0])
operand 0: zeros of its cotangents tell 4.03 of 4.03 bits of the label and 3.32 of 3.32 bits of the others' symbols; \
besides, each cotangent is the likelihood of every own symbol given the label and all other operands
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quiltwork.session.split.programs import Fold


@dataclass(frozen=True)
class Leak:
    """What zeros of the cotangents of one operand tell its party.

    Attributes:
        operand: its number.
        told: groups of outcomes (their numbers) that have the same zeros.
        label_bits: told of the label, of ``label_entropy`` bits.
        label_entropy: of the outcome of uniform symbols.
        others_bits: told of the other operands' symbols, the own one being known, of ``others_entropy`` bits.
        others_entropy: of the other operands, uniform.
    """

    operand: int
    told: tuple[tuple[int, ...], ...]
    label_bits: float
    label_entropy: float
    others_bits: float
    others_entropy: float

    def __str__(self) -> str:
        return (
            f"operand {self.operand}: zeros of its cotangents tell {self.label_bits:.2f} of {self.label_entropy:.2f} "
            f"bits of the label and {self.others_bits:.2f} of {self.others_entropy:.2f} bits of the others' symbols; "
            "besides, each cotangent is the likelihood of every own symbol given the label and all other operands"
        )


def leaks(program: Fold) -> tuple[Leak, ...]:
    """What each operand's party is told at least."""
    return tuple(_leak(program, operand) for operand in range(len(program.sizes)))


def shares(program: Fold, operand: int) -> NDArray[np.float64]:
    """P(y | s_i = k) where the others' symbols are uniform: float64 ``[K, outcomes]``."""
    before: NDArray[np.float64] = np.ones(1)
    for step in program.steps[:operand]:
        each = np.repeat(before, step.shape[1]) / step.shape[1]
        before = np.bincount(step.ravel(), each).astype(np.float64)
    after = np.eye(len(program.outcomes))
    for step in reversed(program.steps[operand + 1 :]):
        after = after[step].mean(1)
    found: NDArray[np.float64] = np.einsum("s,sky->ky", before, after[program.steps[operand]])
    return found


def _leak(program: Fold, operand: int) -> Leak:
    share = shares(program, operand)
    patterns, group = np.unique(share.T > 0, axis=0, return_inverse=True)
    group = group.reshape(-1)
    grouped = np.zeros((len(share), len(patterns)))
    np.add.at(grouped.T, group, share.T)
    known, own = grouped > 0, len(share)
    return Leak(
        operand,
        tuple(tuple(np.flatnonzero(group == g).tolist()) for g in range(len(patterns))),
        _entropy(grouped.sum(0) / own),
        _entropy(share.sum(0) / own),
        # given the own symbol and G, the others' are uniform on a share of their grid
        abs(float((grouped[known] * np.log2(grouped[known])).sum())) / own,
        float(sum(np.log2(size) for at, size in enumerate(program.sizes) if at != operand)),
    )


def _entropy(weights: NDArray[np.float64]) -> float:
    positive = weights[weights > 0]
    return abs(float((positive * np.log2(positive)).sum()))
