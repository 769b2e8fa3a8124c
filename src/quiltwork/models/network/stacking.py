"""Stacking from sums: the best fixed weights of several models, from numbers that owners add up.

For members with outputs p_m(x) and targets y (one-hot classes or numbers) the squared loss of a weighted mean is

    sum_x | sum_m w_m p_m(x) - y |^2  =  w' G w - 2 c' w + t
    G_ml = sum_x p_m(x)' p_l(x)         c_m = sum_x p_m(x)' y         t = sum_x |y|^2

For classes this is the Brier score. G, c and t are additive over rows and over owners, so the weights below are those
that pooled held-out rows would give, exactly, with no row of anyone's data (stacked regression, Breiman 1996; on the
simplex, so that the combination stays a distribution).

The minimum over the simplex is found by an active-set method: minimise over the members in play with their weights
summing to 1, drop those that would turn negative at the first bound met, take in the member whose loss falls fastest,
until none does. A ridge towards equal weights, tiny against G, makes the answer unique where members agree.

>>> sums = StackingSums.from_outputs(np.array([[[1.0, 0.0]], [[0.0, 1.0]]]), np.array([[1.0, 0.0]]))
>>> stack(sums.gram, sums.cross).round(6).tolist()
[1.0, 0.0]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.errors import BrokenPromise, InvalidOption

Array = NDArray[np.float64]

RIDGE = 1e-9
"""Pull towards equal weights, as a share of the mean square of the outputs."""

MOST_MEMBERS = 256


@dataclass(frozen=True, eq=False)
class StackingSums:
    """The sums that stacking needs.

    Attributes:
        gram: G, float64 ``[M, M]``.
        cross: c, float64 ``[M]``.
        target: t.
        count: rows.
    """

    gram: Array
    cross: Array
    target: float
    count: int

    @classmethod
    def from_outputs(cls, outputs: ArrayLike, targets: ArrayLike) -> StackingSums:
        """The sums of ``outputs`` ``[M, n, k]`` (probabilities or numbers) against ``targets`` ``[n, k]``.

        Raises:
            InvalidOption: shapes do not fit, or a number is not finite.
        """
        members, wanted = np.asarray(outputs, dtype=np.float64), np.asarray(targets, dtype=np.float64)
        if members.ndim != 3 or members.shape[1:] != wanted.shape:
            raise _refused("outputs", f"shapes {members.shape} and {wanted.shape} do not fit [M, n, k], [n, k]")
        if not (np.isfinite(members).all() and np.isfinite(wanted).all()):
            raise _refused("outputs", "they are not all finite")
        flat = members.reshape(len(members), -1)
        return cls(flat @ flat.T, flat @ wanted.ravel(), float((wanted**2).sum()), len(wanted))

    def merge(self, other: StackingSums) -> StackingSums:
        """The sums over both groups of rows."""
        return StackingSums(
            self.gram + other.gram, self.cross + other.cross, self.target + other.target, self.count + other.count
        )

    def loss(self, weights: ArrayLike) -> float:
        """Mean squared loss (Brier score) a row of the combination with these weights."""
        w = np.asarray(weights, dtype=np.float64)
        return float(w @ self.gram @ w - 2 * self.cross @ w + self.target) / self.count


def stack(gram: ArrayLike, cross: ArrayLike, *, ridge: float = RIDGE) -> Array:
    """Weights on the simplex of least ``w' G w - 2 c' w``, float64 ``[M]``.

    Args:
        gram: G ``[M, M]``, summed over owners.
        cross: c ``[M]``, likewise.
        ridge: pull towards equal weights; positive, so that one answer exists.

    Raises:
        InvalidOption: shapes do not fit, a number is not finite, or G is no Gram matrix.
    """
    quadratic, linear = _checked(gram, cross)
    members = len(linear)
    pull = ridge * (float(np.trace(quadratic)) / members or 1.0)
    quadratic, linear = quadratic + pull * np.eye(members), linear + pull / members
    weights = np.zeros(members)
    weights[int(np.argmin(quadratic.diagonal() - 2 * linear))] = 1.0
    for _ in range(100 * members):
        weights = _descend(quadratic, linear, weights)
        slope = quadratic @ weights - linear
        level = slope[weights > 0].min()
        worst = int(np.argmin(np.where(weights > 0, np.inf, slope)))
        if weights[worst] > 0 or slope[worst] >= level - 1e-12 * max(1.0, float(np.abs(linear).max())):
            return np.asarray(weights / weights.sum(), dtype=np.float64)
        weights = _take_in(quadratic, slope, weights, worst)
    raise BrokenPromise(
        "stacking weights", why="the active-set method did not end", mend="Report it, with the Gram matrix."
    )


def stacked(sums: Sequence[StackingSums], *, ridge: float = RIDGE) -> Array:
    """Weights for the rows of all owners together.

    Raises:
        InvalidOption: there are no sums, or they do not fit each other.
    """
    if not sums or len({part.gram.shape for part in sums}) > 1:
        raise _refused("sums", "there are none, or they are of different members")
    whole = sums[0]
    for part in sums[1:]:
        whole = whole.merge(part)
    return stack(whole.gram, whole.cross, ridge=ridge)


def _descend(quadratic: Array, linear: Array, weights: Array) -> Array:
    """From a feasible point to the minimum over its positive members, dropping those that reach zero."""
    while True:
        free = np.flatnonzero(weights > 0)
        goal = _equality(quadratic[np.ix_(free, free)], linear[free])
        if (goal > 0).all():
            moved = np.zeros_like(weights)
            moved[free] = goal
            return moved
        now = weights[free]
        falling = goal <= 0
        step = (now[falling] / (now[falling] - goal[falling])).min()
        reached = now + step * (goal - now)
        reached[falling & (reached <= 1e-15)] = 0.0
        reached[np.flatnonzero(falling)[int(np.argmin(now[falling] / (now[falling] - goal[falling])))]] = 0.0
        weights = np.zeros_like(weights)
        weights[free] = np.maximum(reached, 0.0)


def _take_in(quadratic: Array, slope: Array, weights: Array, member: int) -> Array:
    """The best point on the way from ``weights`` to one member alone, which lowers the loss."""
    way = -weights
    way[member] += 1.0
    step = min(1.0, -float(slope @ way) / float(way @ quadratic @ way))
    return np.asarray(weights + step * way, dtype=np.float64)


def _equality(quadratic: Array, linear: Array) -> Array:
    """The minimum with sum 1: ``Q w = c - nu 1``."""
    solved = np.linalg.solve(quadratic, np.stack([linear, np.ones_like(linear)], axis=1))
    excess = (solved[:, 0].sum() - 1) / solved[:, 1].sum()
    return np.asarray(solved[:, 0] - excess * solved[:, 1], dtype=np.float64)


def _checked(gram: ArrayLike, cross: ArrayLike) -> tuple[Array, Array]:
    quadratic, linear = np.array(gram, dtype=np.float64), np.array(cross, dtype=np.float64)
    if linear.ndim != 1 or not 1 <= linear.size <= MOST_MEMBERS or quadratic.shape != (linear.size, linear.size):
        raise _refused("gram and cross", f"shapes {quadratic.shape} and {linear.shape} do not fit [M, M], [M]")
    if not (np.isfinite(quadratic).all() and np.isfinite(linear).all()):
        raise _refused("gram and cross", "they are not all finite")
    size = float(np.abs(quadratic).max())
    if not np.allclose(quadratic, quadratic.T, rtol=1e-6, atol=1e-9 * size):
        raise _refused("gram", "it is not symmetric")
    if np.linalg.eigvalsh(quadratic).min() < -1e-9 * max(size, 1e-300) * linear.size:
        raise _refused("gram", "it has a negative eigenvalue, so no outputs have it")
    return (quadratic + quadratic.T) / 2, linear


def _refused(what: str, why: str) -> InvalidOption:
    return InvalidOption(what, why=why, mend="Sum them with StackingSums.from_outputs.")
