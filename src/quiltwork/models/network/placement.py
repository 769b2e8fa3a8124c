"""Where to stitch, as far as sums over activations can tell: every pair of points by the fit of both directions.

    score(i, j) = (R2 of i -> j  +  R2 of j -> i) / 2          on held-out rows where there are some

Each direction has the ridge strength that explains most of its held-out rows. The work is one decomposition for each
point and grid, and one product for all its targets. A fit is a ranking and no promise: shallow points, where any
network is near its input, fit best and gain least. So `pick` takes the best of each stretch of depth, not the best of
all; which of the picked is good for whom, owners' own data say (`quiltwork.evaluate.placement`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quiltwork.errors import InvalidOption
from quiltwork.models.network.pair_moments import PairStatistics, Side, View
from quiltwork.models.network.regression import RIDGES, Array, Decomposed, best_ridges


@dataclass(frozen=True)
class Candidate:
    """A pair of points and how well each predicts the other.

    Attributes:
        a: point of network A.
        b: point of network B.
        a_to_b: R2 of B's features from A's; on held-out rows where there are some.
        b_to_a: the other way.
        ridge_a_to_b: strength of that fit.
        ridge_b_to_a: likewise.
        cka: linear CKA of the two on their common grid, on the rows fitted to.
        depth: of a and b among the points that take part, each in [0, 1].
    """

    a: str
    b: str
    a_to_b: float
    b_to_a: float
    ridge_a_to_b: float
    ridge_b_to_a: float
    cka: float
    depth: tuple[float, float]

    @property
    def score(self) -> float:
        """Mean R2 of both directions."""
        return (self.a_to_b + self.b_to_a) / 2


def rank(statistics: PairStatistics, ridges: Sequence[float] = RIDGES) -> list[Candidate]:
    """All pairs, the best fit first; of equals the shallower.

    Args:
        statistics: of one owner, or merged.
        ridges: strengths to choose among.
    """
    forward, backward = _directions(statistics, "a", ridges), _directions(statistics, "b", ridges)
    layout, found = statistics.layout, []
    for i, j in layout.pairs:
        ahead, back = forward[i, j], backward[j, i]
        depth = (_relative(i, len(layout.a)), _relative(j, len(layout.b)))
        found.append(
            Candidate(layout.a[i].name, layout.b[j].name, ahead[0], back[0], ahead[1], back[1], ahead[2], depth)
        )
    return sorted(found, key=lambda candidate: -candidate.score)


def _relative(place: int, count: int) -> float:
    return place / (count - 1) if count > 1 else 1.0


def _directions(
    statistics: PairStatistics, side: Side, ridges: Sequence[float]
) -> dict[tuple[int, int], tuple[float, float, float]]:
    """(source, target) -> R2, strength, CKA, for all sources of one side."""
    found = {}
    for g, grid in enumerate(statistics.layout.grids):
        for source in grid.a if side == "a" else grid.b:
            view = View(statistics, side, g, source)
            for target, row in zip(view.targets, _fits(view, ridges), strict=True):
                found[source, target] = (float(row[0]), float(row[1]), float(row[2]))
    return found


def _fits(view: View, ridges: Sequence[float]) -> Array:
    """R2, strength and CKA of each target, ``[targets, 3]``."""
    source, folds = Decomposed(view), view.statistics.folds
    strengths = best_ridges(source, folds, ridges)
    explained = np.empty(len(strengths))
    for strength in np.unique(strengths):
        values = source.explained(source.rotated_solution(float(strength)), folds[-1])
        explained[strengths == strength] = values[strengths == strength]
    return np.stack((explained, strengths, source.alignment()), axis=1)


def pick(candidates: Sequence[Candidate], count: int) -> list[Candidate]:
    """The best few, spread over depth: the best of each of ``count`` stretches, then the best of what is left.

    Args:
        candidates: from `rank`, best first.
        count: how many; all where there are fewer.

    Raises:
        InvalidOption: the count is below 1.
    """
    if count < 1:
        raise InvalidOption(f"count={count}", why="nothing would be picked", mend="Pick one pair at least.")
    ranked = sorted(candidates, key=lambda candidate: -candidate.score)
    best: dict[int, Candidate] = {}
    for candidate in ranked:
        stretch = min(int(sum(candidate.depth) / 2 * count), count - 1)
        best.setdefault(stretch, candidate)
    chosen = sorted(best.values(), key=lambda candidate: -candidate.score)
    return [*chosen, *(candidate for candidate in ranked if candidate not in chosen)][:count]
