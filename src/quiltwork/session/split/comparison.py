"""Does any fragment alone tell anything of the label? A check on held-out rows that isolated mode owes its user.

Isolated components learn nothing of a label that is independent of every single fragment, as in XOR, however clear it
is from all together. That shows: no head alone beats the commonest class. For n heads and m held-out rows a head
counts as telling something if its accuracy a exceeds the share s of the commonest class by

    a - s > z sqrt(s (1 - s) / m),     z the normal quantile at 1 - 0.05 / n

so that of heads that know nothing one passes in at most about one of twenty sessions. For numbers the same is asked
of the correlation r between a head's outputs and the labels: r sqrt(m) > z.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.errors import InvalidOption
from quiltwork.session.split.isolated import Isolated
from quiltwork.session.split.run import SplitRun

LEVEL = 0.05


@dataclass(frozen=True)
class Alone:
    """What each head tells alone, on held-out rows.

    Attributes:
        scores: accuracy, or correlation, by party.
        chance: what a head that knows nothing scores.
        least: the score from which a head counts as telling something.
        rows: held-out rows.
    """

    scores: Mapping[str, float]
    chance: float
    least: float
    rows: int

    @property
    def nobody(self) -> bool:
        """Whether no fragment alone tells the label."""
        return max(self.scores.values()) <= self.least

    def __str__(self) -> str:
        best = max(self.scores.values())
        if not self.nobody:
            return f"fragments tell of the label alone (the best scores {best:.3f}, chance is {self.chance:.3f})"
        return (
            f"no fragment alone tells the label, as far as {self.rows} held-out rows show: the best scores {best:.3f}, "
            f"chance is {self.chance:.3f}, and {self.least:.3f} would count; isolated mode cannot learn what only all "
            "together tell, joint mode can"
        )


def alone(run: SplitRun, rows: NDArray[np.int64], labels: Tensor) -> Alone:
    """Judge each head of an isolated run by itself, and note in the run's warnings where none tells anything.

    Args:
        run: in isolated mode.
        rows: positions of held-out rows ``[m]``.
        labels: theirs, int64 ``[m]`` or floats.

    Raises:
        InvalidOption: the run has no heads, or there are no rows.
    """
    if not isinstance(run.mode, Isolated) or len(rows) == 0:
        raise InvalidOption(
            "judging fragments alone", why="it needs heads and held-out rows", mend="Use isolated mode, hold rows out."
        )
    outputs = run.mode.outputs(run.activations(rows))
    z = NormalDist().inv_cdf(1 - LEVEL / len(outputs))
    if run.mode.classes:
        chance = float(torch.bincount(labels).max()) / len(labels)
        margin = math.sqrt(chance * (1 - chance))
        scores = {p: float((o.argmax(1) == labels).double().mean()) for p, o in outputs.items()}
    else:
        chance, margin = 0.0, 1.0
        scores = {p: _correlation(o[:, 0], labels.double()) for p, o in outputs.items()}
    found = Alone(scores, chance, chance + z * margin / math.sqrt(len(rows)), len(rows))
    if found.nobody:
        run.warnings.append(str(found))
    return found


def _correlation(one: Tensor, two: Tensor) -> float:
    a, b = one - one.mean(), two - two.mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else 0.0
