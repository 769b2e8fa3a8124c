"""Linear maps between points of two networks, from sums that owners add up and no activation leaves.

For a cell of the common grid of points i and j (`contribution.pair_layout`), with features x at the source and y at the
target, the map y ~ S x + b of ridge regression needs nothing but the count n, sums, Grams and the cross-Gram. With
means m, covariances K = E x x' - m m' and cross-covariance Q = E x y' - m_x m_y',

    S' = (K + r t I)^-1 Q        b = m_y - S m_x        t = tr K / C

so that the strength r has no unit, and sums of several owners give exactly the regression on all their rows together.
The decomposition K = V diag(e) V' is made once for a source, whatever the targets and strengths: in rotated coordinates
the solution is V'Q / (e + r t), line by line, and a rank is seen. How much of the target is explained,

    R2 = 1 - |y - S x - b|^2 / |y - mean y|^2,

follows from the same sums; on held-out ones, with S and b of the others, it chooses r. Linear CKA, which C. Kornblith
et al. 2019 (arXiv 1905.00414) define by centred Grams, is |Q|^2 / (|K_x| |K_y|) in Frobenius norms.

>>> import torch
>>> from quiltwork.contribution.pair_layout import PairLayout, PairPoint
>>> from quiltwork.models.network.pair_sums import PairSums
>>> point = PairPoint(name="fc", channels=2, height=1, width=1)
>>> layout = PairLayout((point,), (point,))
>>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0], [3.0, 1.0]])
>>> sums = PairSums(layout)
>>> sums.add([x[..., None, None]], [2 * x[..., None, None] + 1])
>>> found = fit(PairStatistics(layout, sums.tensors("train")), "fc", "fc", into="b", ridge=0.0)
>>> found.weight.round(6).tolist(), found.bias.round(6).tolist(), round(found.r2_train, 6)
([[2.0, 0.0], [0.0, 2.0]], [1.0, 1.0], 1.0)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quiltwork.contribution.pair_layout import Fold
from quiltwork.errors import BrokenPromise, InvalidOption
from quiltwork.models.network.pair_moments import Moments, PairStatistics, Side, View

Array = NDArray[np.float64]

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Strengths to choose among where rows are held out."""

_ROUNDING = 1e-6

USUAL_RIDGE = 1e-3
"""The strength where none are."""


class RankDeficient(UserWarning):
    """Features of a source are linearly dependent, and no ridge was asked for: the shortest solution is given."""


class Decomposed:
    """A source's covariance, decomposed: solutions and fits of all targets for any strength."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._train = view.moments("train")
        self._values, self._vectors = _decompose(self._train.covariance)
        self._rotated = self._vectors.T @ self._train.cross
        self._scale = float(self._values.mean())
        self._held: tuple[Moments, Array, Array] | None = None
        if len(view.statistics.folds) > 1:
            held = view.moments("held_out")
            turned = self._vectors.T @ held.covariance @ self._vectors
            self._held = held, turned, self._vectors.T @ held.cross

    def rotated_solution(self, ridge: float) -> Array:
        """V'S' for all targets side by side, ``[C, T]``."""
        below = len(self._values) * np.finfo(np.float64).eps * 8 * self._values[-1]
        if ridge == 0 and (self._values <= below).any():
            rank = int((self._values > below).sum())
            warnings.warn(
                RankDeficient(f"{rank} of {len(self._values)} channels of the source are independent"), stacklevel=3
            )
        whole = self._values + ridge * self._scale
        use = (self._values > below) | (ridge > 0)
        inverse = np.divide(1.0, whole, out=np.zeros_like(whole), where=use & (whole > 0))
        return self._rotated * inverse[:, None]

    def solution(self, rotated: Array) -> tuple[Array, Array]:
        """S' ``[C, T]`` and b ``[T]``."""
        turned = self._vectors @ rotated
        return turned, self._train.target_mean - self._train.mean @ turned

    def explained(self, rotated: Array, fold: Fold) -> Array:
        """R2 of each target point."""
        if fold == "train":
            gained = 2 * (rotated * self._rotated).sum(axis=0) - (self._values[:, None] * rotated**2).sum(axis=0)
            variances, rest = self._train.variances, self._train.variances - gained
        else:
            assert self._held is not None
            held, turned, cross = self._held
            shift = (held.mean - self._train.mean) @ self._vectors
            offset = held.target_mean - self._train.target_mean - shift @ rotated
            rest = held.variances - 2 * (rotated * cross).sum(axis=0) + (rotated * (turned @ rotated)).sum(axis=0)
            variances, rest = held.variances, rest + offset**2
        starts = self._view.starts[:-1]
        total, left = np.add.reduceat(variances, starts), np.add.reduceat(rest, starts)
        # a rest below nothing is none of rows: noise, or made-up sums, which must not rank before true ones
        sound = (total > 0) & (left >= -_ROUNDING * total)
        return 1 - np.divide(left, total, out=np.ones_like(total), where=sound)

    def alignment(self) -> Array:
        """Linear CKA with each target point."""
        view, held = self._view, self._view.statistics
        other: Side = "b" if view.side == "a" else "a"
        squares = np.add.reduceat((self._train.cross**2).sum(axis=0), view.starts[:-1])
        own = math.sqrt(float((self._train.covariance**2).sum()))
        sizes = [_size(View(held, other, view.grid, k).moments("train").covariance) for k in view.targets]
        lengths = own * np.array(sizes)
        return np.divide(squares, lengths, out=np.zeros_like(squares), where=lengths > 0)


def _size(matrix: Array) -> float:
    return math.sqrt(float((matrix**2).sum()))


def _decompose(covariance: Array) -> tuple[Array, Array]:
    try:
        values, vectors = np.linalg.eigh(covariance)
    except np.linalg.LinAlgError as error:
        raise BrokenPromise(
            "the covariance of a point",
            why="its eigenvalues were not found, though it is finite and symmetric",
            mend="Leave the point out, and report this.",
        ) from error
    # noise and rounding make some of them negative, which no covariance has
    return np.maximum(values, 0.0), vectors


@dataclass(frozen=True, eq=False)
class Fit:
    """A linear map from one point into another.

    Attributes:
        weight: float64 ``[C_target, C_source]``.
        bias: float64 ``[C_target]``.
        ridge: its strength, in mean variances of the source.
        r2_train: share of the target's variance that it explains.
        r2_held_out: the same on held-out rows; None where none were.
    """

    weight: Array
    bias: Array
    ridge: float
    r2_train: float
    r2_held_out: float | None


def fit(statistics: PairStatistics, a: str, b: str, *, into: Side, ridge: float | None = None) -> Fit:
    """The ridge regression from one point to the other.

    Args:
        statistics: of one owner, or merged.
        a: point of network A.
        b: point of network B.
        into: which of the two is the target.
        ridge: strength in mean variances of the source; None: the best of `RIDGES` on held-out rows, or `USUAL_RIDGE`.

    Raises:
        InvalidOption: there is no such point or pair, or the strength is negative.

    Warns:
        RankDeficient: the strength is zero and the source's channels are linearly dependent.
    """
    i, j = statistics.place("a", a), statistics.place("b", b)
    if (i, j) not in statistics.layout.pairs:
        raise InvalidOption(
            f"points '{a}' and '{b}'",
            why="they have no grid in common: neither grid covers the other",
            mend="Choose another pair.",
        )
    if ridge is not None and not 0 <= ridge < math.inf:
        raise InvalidOption(f"ridge={ridge}", why="it is not negative, and finite", mend="Choose 0.001, say.")
    grid = statistics.layout.pairs[i, j]
    view = View(statistics, "a", grid, i) if into == "b" else View(statistics, "b", grid, j)
    place = view.targets.index(j if into == "b" else i)
    source = Decomposed(view)
    strength = ridge if ridge is not None else best_ridges(source, statistics.folds)[place]
    rotated = source.rotated_solution(strength)
    weight, bias = source.solution(rotated)
    columns = slice(view.starts[place], view.starts[place + 1])
    held = source.explained(rotated, "held_out")[place] if len(statistics.folds) > 1 else None
    return Fit(
        np.ascontiguousarray(weight[:, columns].T),
        bias[columns],
        float(strength),
        float(source.explained(rotated, "train")[place]),
        None if held is None else float(held),
    )


def best_ridges(source: Decomposed, folds: Sequence[Fold], ridges: Sequence[float] = RIDGES) -> Array:
    """For each target, the strength that explains most of its held-out rows; the stronger of equals."""
    targets = len(source.explained(source.rotated_solution(USUAL_RIDGE), "train"))
    if len(folds) < 2:
        return np.full(targets, USUAL_RIDGE)
    strengths = np.array(sorted(ridges, reverse=True))
    found = np.array([source.explained(source.rotated_solution(ridge), "held_out") for ridge in strengths])
    best: Array = strengths[found.argmax(axis=0)]
    return best
