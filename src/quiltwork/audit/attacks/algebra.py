"""The algebraic attack on a known program: outcomes and other operands, read off the zeros of the cotangents.

The party knows its own p, so each cotangent c (times the size of the batch) gives it, symbol by symbol,

    1 - c[k] / p[k] = P(y | s = k) / P(y)

which is zero exactly where no symbols of the others make k an outcome y. The pattern of zeros picks the outcomes that
fit; with the party's own symbol, the largest of p, these are narrowed down to the outcomes that it can have, and for
two operands each outcome to the other symbols that make it. Nothing but the program and the own component is needed:
no labels, no data of others. The baseline is the best guess from the own symbol alone.

Of a sum of two digits every outcome has a pattern of its own; of a sum modulo 10 there are no zeros to read, and the
attack is left with its baseline. Labels that were randomised before the first step make what is read deniable: then
the outcomes found are the randomised ones.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.audit.attacks.result import Attack, wilson
from quiltwork.errors import InvalidOption
from quiltwork.session.split.program_leak import shares
from quiltwork.session.split.programs import Fold

ZERO = 1e-3
"""Ratios below it count as zero."""


def read_off(
    program: Fold, operand: int, activations: ArrayLike, cotangents: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
    """What the zeros tell: outcomes int64 ``[m]``, and for a program of two operands the other's symbols.

    Args:
        program: that is known to all.
        operand: the attacker's.
        activations: ``[m, K]``, its logits.
        cotangents: ``[m, K]``, times the size of the batch.

    Raises:
        InvalidOption: the arrays are not of as many symbols as the operand has.
    """
    logits, c = np.asarray(activations, dtype=np.float64), np.asarray(cotangents, dtype=np.float64)
    if logits.shape != c.shape or logits.ndim != 2 or logits.shape[1] != program.sizes[operand]:
        raise InvalidOption(
            f"activations {logits.shape} and cotangents {c.shape}",
            why=f"operand {operand} has {program.sizes[operand]} symbols",
            mend="Give the logits of that operand, and what came back for them.",
        )
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    share = shares(program, operand)
    zero = (1 - c / np.maximum(p, 1e-300)) < ZERO
    # symbols whose probability is lost in float32 say nothing of zeros
    told = p > 1e-6
    misfit = (told[:, :, None] & (zero[:, :, None] != (share == 0)[None])).sum(1)
    own = p.argmax(1)
    # fewest contradictions first; among equals the likeliest outcome of the own symbol
    outcomes = (misfit - share[own]).argmin(1)
    if len(program.sizes) != 2:
        return outcomes, None
    return outcomes, _other(program, operand)[own, outcomes].argmax(1)


def _other(program: Fold, operand: int) -> NDArray[np.bool_]:
    """For two operands: whether own symbol and outcome go with a symbol of the other, ``[K, outcomes, K_other]``."""
    table = program.table() if operand == 0 else program.table().T
    found: NDArray[np.bool_] = table[:, None, :] == np.arange(len(program.outcomes))[None, :, None]
    return found


def algebraic(
    party: str,
    program: Fold,
    operand: int,
    activations: ArrayLike,
    cotangents: ArrayLike,
    outcomes: ArrayLike,
    *,
    when: str = "all rounds",
) -> Attack:
    """How many outcomes does a party read off?

    Args:
        party: who attacks.
        program: that is known to all.
        operand: the attacker's.
        activations: ``[m, K]``, its logits.
        cotangents: ``[m, K]``, times the size of the batch.
        outcomes: int ``[m]``, the true ones, by number.
        when: the rounds they are of, in words.

    Raises:
        InvalidOption: the arrays do not fit.
    """
    truth = np.asarray(outcomes, dtype=np.int64)
    guess, _ = read_off(program, operand, activations, cotangents)
    own = np.asarray(activations).argmax(1)
    blind = shares(program, operand).argmax(1)[own]
    hits = int((guess == truth).sum())
    low, high = wilson(hits, len(truth))
    return Attack(
        name="outcomes from zeros of a known program",
        party=party,
        adversary="the party itself, passive, knowing the program and its own component",
        measure="share of outcomes",
        when=when,
        success=hits / len(truth),
        baseline=float((blind == truth).mean()),
        low=low,
        high=high,
        cases=len(truth),
    )
