"""Are the masks of a secure sum what they are taken for? Tried on everything that crossed under them.

A masked value is its summand plus a number that is uniform on 2^64 and used once. So on a tape, of each party,

    values         y_t                      are uniform
    differences    y_(t+1) - y_t            are uniform: a mask that is used twice cancels here, and little is left
    lesser sums    sum over all but one     are uniform: all but one party together have no answer in the open

while the sum over all is on the grid of the summands. Each is judged by its leading 4 bits, sixteen cells alike likely:
a summand of up to 2^48 in size has them all equal, so one answer without its mask is found at once. It is a test of
carelessness, no proof: masks made by a bad generator may pass. What they hide rests on key agreement and cipher.

The controls are an answer without a mask (the sum itself) and one with the mask of the answer before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from quiltwork.audit.check import Check, check
from quiltwork.audit.facts import Facts
from quiltwork.audit.tape import Tape, require_genuine
from quiltwork.errors import InvalidOption
from quiltwork.session.frames import Kind

Words = NDArray[np.uint64]

GREATEST_SPREAD = 110.0
"""Of chi squared over sixteen cells; many uniform values pass it with a probability below 1e-15. Fewer than eight
cannot, whatever they are; the control says so."""


def masks(facts: Facts, tape: Tape) -> Check:
    """Do all answers of all parties look like fresh uniform numbers?

    Args:
        facts: of the run.
        tape: of the run.

    Raises:
        AlteredRecords: the tape is of another session.
        InvalidOption: nothing crossed under masks, or parties did not answer alike.
    """
    require_genuine(tape, facts)
    answers = {party: _masked(tape, party) for party in facts.parties}
    _require_alike(answers)
    spreads = {party: _worst(answers, party, own) for party, own in answers.items()}
    passed = max(spreads.values()) <= GREATEST_SPREAD
    caught = all(_worst(answers, party, planted) > GREATEST_SPREAD for party, planted in _plants(answers))
    bad = ", ".join(party for party, spread in spreads.items() if spread > GREATEST_SPREAD)
    says = "All answers under masks look like uniform numbers that are used once."
    return check(
        "masks",
        facts,
        "G6",
        "statistical",
        passed=passed,
        control=caught,
        found={"chi squared": dict(spreads), "greatest": GREATEST_SPREAD, "values": _size(answers)},
        says=says if passed else f"Answers of party {bad} are NOT under fresh masks.",
    )


def spread(values: Words) -> float:
    """Chi squared of the leading 4 bits against sixteen cells alike likely.

    >>> spread(np.arange(16, dtype=np.uint64) << np.uint64(60)), spread(np.zeros(160, np.uint64))
    (0.0, 2400.0)
    """
    counts = np.bincount((values >> np.uint64(60)).astype(np.int64), minlength=16)
    expected = len(values) / 16
    return float(((counts - expected) ** 2).sum() / expected)


def _masked(tape: Tape, party: str) -> list[Words]:
    return [m.array.ravel() for m in tape.spools[party].up if m.kind is Kind.MASKED and m.array is not None]


def _worst(answers: Mapping[str, Sequence[Words]], party: str, own: Sequence[Words]) -> float:
    """The largest spread of what one party said, alone, from answer to answer, and with all but one other."""
    found = [spread(np.concatenate(own))]
    steps = [after[: len(before)] - before[: len(after)] for before, after in pairwise(own)]
    if steps:
        found.append(spread(np.concatenate(steps)))
    for absent in answers:
        rest = [answers[other] for other in answers if other not in (party, absent)]
        if absent != party and rest:
            found.append(spread(np.concatenate([_total(parts) for parts in zip(own, *rest, strict=True)])))
    return max(found)


def _total(parts: Sequence[Words]) -> Words:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _plants(answers: Mapping[str, Sequence[Words]]) -> list[tuple[str, list[Words]]]:
    """For each party, its answers without masks, and, where there are several, with one mask for all."""
    sums = [_total(parts) for parts in zip(*answers.values(), strict=True)]
    found = [(party, sums) for party in answers]
    for party, own in answers.items():
        mask = np.resize(own[0], max(map(len, own)))
        if len(own) > 1:
            found.append((party, [mask[: len(one)] + one for one in sums]))
    return found


def _size(answers: Mapping[str, Sequence[Words]]) -> int:
    return sum(len(one) for one in next(iter(answers.values())))


def _require_alike(answers: Mapping[str, Sequence[Words]]) -> None:
    shapes = {tuple(map(len, own)) for own in answers.values()}
    if len(shapes) != 1 or not _size(answers):
        raise InvalidOption(
            "the masks of a sum",
            why="parties have not answered alike, or nothing crossed under masks",
            mend="Tape a whole session of a secure sum.",
        )
