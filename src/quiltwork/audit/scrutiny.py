"""Scrutiny of cotangents by the party that gets them: do they carry the task's labels, as honest learning does?

Of two rows with nearly the same activation, an honest composer pulls those of one label the same way and those of two
labels apart, since the label is all that tells them apart for it. A composer that steers the component elsewhere
(`quiltwork.audit.attacks.hijack`) sends a smooth function of the activation, blind to labels: neighbours go the same
way whatever their labels. So over pairs of neighbours in the party's own activations, within a round,

    gap = mean cosine of cotangents, pairs of one label  -  mean cosine, pairs of two labels

is about 1 + 1 / (K - 1) for K classes when honest learning begins (less when little is left to learn, so take the first
epochs), and about 0 under a hijack. (Comparing all pairs, as
in the gradients' scrutiniser of Fu et al., NDSS 2023, leaves a gap under a hijack as well, where activations tell of
labels; neighbours take that away.)

A party that knows no labels cannot do this; randomised labels shrink the gap. And it finds composers that are blind to
labels, not one that adds honest cotangents to steering ones: that takes training at home, where nothing is steered.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.audit.check import Check, check
from quiltwork.audit.facts import Facts
from quiltwork.audit.tape import Lessons
from quiltwork.errors import InvalidOption

LEAST_GAP = 0.3
"""Between what a hijack showed at most in its tests (0.16) and honest learning at least (0.46, late on digits)."""

NEIGHBOURS = 5

_ERRORS = 3.0
_LEAST_PAIRS = 10


class Gap(NamedTuple):
    """What was found.

    Attributes:
        gap: the difference of mean cosines.
        error: its standard error, as if pairs were independent.
        pairs: of two labels.
    """

    gap: float
    error: float
    pairs: int

    @property
    def carries(self) -> bool:
        """Whether the cotangents carry labels, clearly."""
        return self.gap - _ERRORS * self.error > LEAST_GAP


def neighbour_gap(lessons: Lessons, labels: ArrayLike) -> Gap:
    """The gap over neighbours.

    Args:
        lessons: rounds of the party.
        labels: int ``[n]`` by position in the agreed order; -1 where the party does not know it.

    Raises:
        InvalidOption: too few neighbours of two labels are known.
    """
    truth = np.asarray(labels, dtype=np.int64)[lessons.rows]
    alike, apart = [np.empty(0)], [np.empty(0)]
    for round_ in np.unique(lessons.rounds):
        at = (lessons.rounds == round_) & (truth >= 0)
        if at.sum() > 1:
            cosine, same = _neighbours(lessons.activations[at], lessons.cotangents[at], truth[at])
            alike.append(cosine[same])
            apart.append(cosine[~same])
    one, two = np.concatenate(alike), np.concatenate(apart)
    if min(len(one), len(two)) < _LEAST_PAIRS:
        raise InvalidOption(
            f"labels of {int((truth >= 0).sum())} rows",
            why=f"{len(two)} pairs of neighbours have two labels and {len(one)} have one; {_LEAST_PAIRS} are needed",
            mend="Take more rounds, or labels of more rows.",
        )
    error = math.sqrt(float(one.var()) / len(one) + float(two.var()) / len(two))
    return Gap(float(one.mean() - two.mean()), error, len(two))


def scrutiny(
    facts: Facts, party: str, lessons: Lessons, labels: ArrayLike, hijacked: Lessons, hijacked_labels: ArrayLike
) -> Check:
    """Do the cotangents that a party got carry labels?

    Args:
        facts: of the run.
        party: whose.
        lessons: its rounds.
        labels: int ``[n]``, those that it knows; -1 elsewhere.
        hijacked: rounds of a session under a planted hijack, the control.
        hijacked_labels: the labels of those.

    Raises:
        InvalidOption: too few labels are known.
    """
    found, planted = neighbour_gap(lessons, labels), neighbour_gap(hijacked, hijacked_labels)
    outcome = "carry" if found.carries else "do NOT clearly carry"
    return check(
        "scrutiny",
        facts,
        "G12",
        "statistical",
        subject=party,
        passed=found.carries,
        control=not planted.carries,
        found={**found._asdict(), "planted gap": planted.gap, "least gap": LEAST_GAP},
        says=f"Cotangents of party '{party}' {outcome} the task's labels (gap {found.gap:.2f}).",
    )


def _neighbours(
    activations: NDArray[np.float32], cotangents: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Cosines of each row's cotangent with those of its neighbours, and whether the labels are one."""
    h, c = activations.astype(np.float64), cotangents.astype(np.float64)
    squares = (h**2).sum(1)
    distance = squares[:, None] + squares[None, :] - 2 * h @ h.T
    np.fill_diagonal(distance, np.inf)
    near = distance.argsort(1, kind="stable")[:, : min(NEIGHBOURS, len(h) - 1)]
    u = c / np.maximum(np.linalg.norm(c, axis=1, keepdims=True), 1e-30)
    return (u[:, None] * u[near]).sum(-1), labels[near] == labels[:, None]
