"""Second moments of clipped rows, and Gaussian noise that hides one row: the algebra of `moments_release`.

A centre c and a scale s for each column and a clip C are declared in advance, from public knowledge and never from the
rows, which they would tell about. Row x becomes

    z = (x - c) / s        u = z min(1, C / |z|) / C        u~ = (1, u)

and the statistic is one matrix a weight, ``T_r = sum_i w_ir u~_i u~_i'`` for r = 1 ... R. Adding or removing row i
changes it by w_ir u~_i u~_i'. Each distinct number is counted once, times the root of how often it occurs (an entry off
the diagonal twice, all of weight r m_r times), so that the L2 norm of these numbers is the Frobenius norm of the whole:

    |change| = |w_i| |u~_i u~_i'| = |w_i| (1 + |u_i|^2) <= 2 |w_i|        |w_i|^2 = sum_r m_r w_ir^2

with equality at |u| = 1. Hence the L2 sensitivity of

    moments (n, sum u, sum u u')     w = 1                                 2
    expert Grams                     w = responsibilities, sum 1 a row     2,  since |w| <= sum w = 1
    gate Hessian                     w = diag(pi) - pi pi' (K-1 square)    1,  since |w| <= 1/2
    Grams and Hessian together                                             sqrt 5

The third bound: with s_j = sum pi^j, |diag(pi) - pi pi'|^2 = s_2 - 2 s_3 + s_2^2 <= s_2 - s_2^2 <= 1/4, because
s_2^2 <= s_1 s_3 = s_3 (Cauchy and Schwarz); to leave a row and a column out makes a norm no larger. Weights must follow
from the row itself and public parameters, or ones already released under noise; else other rows would change them.

**Numbers that a computer adds.** u is rounded to multiples of 2^-12 inside the ball, weights towards zero; products are
multiples of 2^-36, which blocks of rows add exactly in float64 and blocks among themselves as integers. So the bound
holds for the sums and not only for real numbers (Casacuberta et al. 2022, arXiv 2207.10635). What is left: beyond 2^17
rows a sum is rounded once more, by less than 2^-26, where it becomes float64; and a weight that a matrix product gives
may come out one bit different for the last few rows of a block when a row joins, which rounding to 2^-12 hides unless
the weight lies on a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.errors import InvalidOption
from quiltwork.evidence.gaussian import finite_table
from quiltwork.evidence.release import named_numbers
from quiltwork.privacy import accountant, mechanisms

Array = NDArray[np.float64]

MOMENTS_SENSITIVITY = 2.0
"""L2 sensitivity of count, sum and second moment together, and of expert Grams: one row more or less."""

HESSIAN_SENSITIVITY = 1.0
"""L2 sensitivity of a gate Hessian."""

_GRID = 2.0**-12
_UNIT = _GRID**3
_BLOCK = 4096
MOST_ROWS = 2**27 - 1
"""More rows would overflow the whole numbers that sums are held in."""

_TAIL = 2.0
_FAR = 1e100


@dataclass(frozen=True, eq=False)
class ClippedGaussian:
    """A rule of release: units and clip declared in advance, and the price.

    Attributes:
        centre: float64 ``[d]``, raw units: a public guess of where rows lie.
        scale: float64 ``[d]``, positive: a public guess of how far they reach.
        epsilon: privacy loss in nats, for one row more or less.
        delta: slack of that bound, in (0, 1); far below one over the number of rows.
        clip: longest row, in scales; None: sqrt d + 2, exceeded by 3 rows in 1000 if they are normal in these units.

    Raises:
        InvalidOption: a part is out of its domain.
    """

    centre: Array
    scale: Array
    epsilon: float
    delta: float
    clip: float | None = None

    def __post_init__(self) -> None:
        centre, scale = np.array(self.centre, dtype=np.float64), np.array(self.scale, dtype=np.float64)
        if centre.ndim != 1 or not centre.size or centre.shape != scale.shape or not np.isfinite(centre).all():
            raise refused("centre and scale", "they are not one finite number a column each")
        if not (np.isfinite(scale) & (scale > 0)).all():
            raise refused("scale", "it is not positive and finite in every column")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise refused(f"clip={self.clip}", "it bounds the length of a row")
        # runs the checks of the other two
        mechanisms.noise_grid("sigma", accountant.calibrate_gaussian(self.epsilon, self.delta, 1.0))
        object.__setattr__(self, "centre", centre)
        object.__setattr__(self, "scale", scale)
        if not (np.isfinite(self.reach) & (self.reach > 0)).all():
            raise refused("scale", "times clip it is zero or infinite, so rows could not be divided by it")

    @classmethod
    def from_text(cls, text: str, centre: Array, scale: Array) -> ClippedGaussian:
        """The rule that ``gaussian:epsilon=1,delta=1e-6,clip=3`` spells; ``clip`` may be left out.

        Raises:
            InvalidOption: the text is no such rule, or a part is out of its domain.
        """
        mechanism, _, rest = text.strip().partition(":")
        if mechanism != "gaussian":
            raise InvalidOption(
                f"release rule {text[:200]!r}",
                why="figures of a table leave under Gaussian noise, or exactly",
                mend="Write gaussian:epsilon=8,delta=1e-6, say.",
            )
        given = named_numbers(text, rest, {"epsilon": None, "delta": None, "clip": math.inf})
        return cls(
            centre, scale, given["epsilon"], given["delta"], None if given["clip"] == math.inf else given["clip"]
        )

    @property
    def reach(self) -> Array:
        """Clip times scale, float64 ``[d]``: what u = 1 stands for."""
        clip = math.sqrt(self.scale.size) + _TAIL if self.clip is None else self.clip
        with np.errstate(over="ignore"):
            return np.asarray(self.scale * clip, dtype=np.float64)

    def clipped(self, rows: ArrayLike) -> Array:
        """u of each row, float64 ``[n, d]``: at most 1 long, in multiples of 2^-12."""
        with np.errstate(over="ignore"):
            z = np.clip((finite_table(rows) - self.centre) / self.reach, -_FAR, _FAR)
        # rounding moves a row by half a grid step in each column, which must not lead out of the ball
        ball = 1 - math.sqrt(self.scale.size) * _GRID / 2
        norm = np.sqrt((z**2).sum(axis=1, keepdims=True))
        return np.asarray(np.rint(z * (ball / np.maximum(norm, ball)) / _GRID) * _GRID, dtype=np.float64)

    def raw(self) -> Array:
        """The matrix B of ``(1, x) = B (1, u)`` for rows that were not clipped, float64 ``[p, p]``."""
        matrix = np.diag(np.concatenate(([1.0], self.reach)))
        matrix[1:, 0] = self.centre
        return matrix


def weighted_moments(table: NDArray[np.generic], weights: Array, rule: ClippedGaussian) -> Array:
    """``sum_i w_ir u~_i u~_i'``, exact for weights in multiples of 2^-12: float64 ``[R, p, p]``.

    Args:
        table: ``[n, d]``.
        weights: float64 ``[n, R]``, absolute values at most 1; rounded towards zero.
        rule: units and clip.

    Raises:
        InvalidOption: there are more than `MOST_ROWS`.
    """
    if len(table) > MOST_ROWS:
        raise refused("rows", f"there are more than {MOST_ROWS}, and sums would not be exact")
    width = 1 + rule.scale.size
    total = np.zeros((weights.shape[1], width, width), dtype=np.int64)
    for start in range(0, len(table), _BLOCK):
        u = rule.clipped(table[start : start + _BLOCK])
        wide = np.concatenate((np.ones((len(u), 1)), u), axis=1)
        cut = np.trunc(weights[start : start + _BLOCK] / _GRID) * _GRID
        for number in range(len(total)):
            total[number] += (((wide * cut[:, [number]]).T @ wide) / _UNIT).astype(np.int64)
    return np.asarray(total * _UNIT, dtype=np.float64)


def noisy_matrices(totals: Array, times: Array, sigma: float, rng: np.random.Generator | None = None) -> Array:
    """Symmetric matrices ``[R, p, p]`` with noise of one ``sigma``, counted as the sensitivity is.

    Args:
        totals: from `weighted_moments`.
        times: m, float64 ``[R]``: how often each matrix occurs in the whole.
        sigma: for a number that occurs once; one that occurs j times has noise of standard deviation sigma / sqrt j.
        rng: for tests only; None draws from the operating system's entropy.
    """
    upper = np.triu_indices(totals.shape[1])
    noisy = np.zeros_like(totals)
    for number, matrix in enumerate(totals):
        found = matrix[upper]
        occurs = times[number] * np.where(upper[0] == upper[1], 1, 2)
        for many in np.unique(occurs):
            same = occurs == many
            found[same] = mechanisms.gaussian(found[same], sigma / math.sqrt(many), rng)
        noisy[number][upper] = found
        noisy[number] += np.triu(noisy[number], 1).T
    return noisy


def shares(weights: Array) -> Array:
    """Weights of experts with sums of at most 1 a row, in multiples of 2^-12."""
    positive = np.maximum(np.nan_to_num(weights, nan=0.0, posinf=1.0), 0.0)
    cut = positive / np.maximum(positive.sum(axis=1, keepdims=True), 1.0)
    return np.asarray(np.floor(cut / _GRID) * _GRID, dtype=np.float64)


def hessian_weights(gate: Array) -> tuple[Array, Array]:
    """Upper triangle of ``diag(pi) - pi pi'`` over the first K-1 experts: ``[n, R]``, and how often each occurs."""
    pi = shares(gate)[:, :-1]
    first, second = np.triu_indices(pi.shape[1])
    pairs = np.where(first == second, pi[:, first], 0.0) - pi[:, first] * pi[:, second]
    return pairs, np.where(first == second, 1.0, 2.0)


def refused(what: str, why: str) -> InvalidOption:
    """An option, or rows, that the rule cannot take."""
    return InvalidOption(what, why=why, mend="See quiltwork.evidence.clipped for what is declared, and how.")
