"""Tables cut over machines, with the truth that made them: for examples, demonstrations, tests and benchmarks.

A row is drawn from a mixture of linear experts under a softmax gate:

    x ~ N(0, Sigma), Sigma_ij = r^|i-j|      k ~ softmax(a_k0 + x'a_k)      y = b_k0 + x'b_k + s_k e,  e ~ N(0, 1)

Three regimes say how hard it is to put local fits together:

    even     experts that differ in everything; rows dealt at random, as many to each machine
    hard     experts that cross at the origin, two of them nearly the same, gate shares from large to small; machines
             may fit different numbers of experts
    shifted  the even experts; rows sorted along a noisy direction of x and cut at unequal sizes, so that each machine
             sees its own part of the covariates

Everything is a function of the seed, in NumPy alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption

Array: TypeAlias = NDArray[np.float64]
RegimeName: TypeAlias = Literal["even", "hard", "shifted"]

SHIFT_NOISE = 0.5
"""Standard deviation of the noise that is added to the direction by which shifted rows are sorted, whose own is 1."""

SIZE_SPREAD = 4.0
"""Largest over smallest number of rows of a machine in the shifted regime."""


@dataclass(frozen=True, eq=False)
class Truth:
    """Parameters of a mixture of K linear experts over d covariates.

    Attributes:
        gate: float64 ``[K, 1 + d]``, intercept first.
        coefficients: float64 ``[K, 1, 1 + d]``, intercept first.
        variances: float64 ``[K, 1]``.
        correlation: r, between neighbouring covariates.
    """

    gate: Array
    coefficients: Array
    variances: Array
    correlation: float = 0.5

    @property
    def n_experts(self) -> int:
        """K."""
        return len(self.gate)

    @property
    def n_features(self) -> int:
        """d."""
        return int(self.gate.shape[1]) - 1


@dataclass(frozen=True, eq=False)
class Piece:
    """Rows of one table.

    Attributes:
        x: float64 ``[n, d]``.
        y: float64 ``[n]``.
        expert: int ``[n]``, which expert gave the response.
    """

    x: Array
    y: Array
    expert: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.y)

    def rows(self, which: NDArray[np.intp] | slice) -> Piece:
        """Some of the rows."""
        return Piece(self.x[which], self.y[which], self.expert[which])


@dataclass(frozen=True, eq=False)
class Regime:
    """One table over M machines, rows of the same law to judge by, and the truth.

    Attributes:
        pieces: one a machine.
        test: rows that no machine holds.
        truth: what made them all.
        n_experts: how many experts each machine fits.
    """

    pieces: tuple[Piece, ...]
    test: Piece
    truth: Truth
    n_experts: tuple[int, ...]


def regime(
    name: RegimeName,
    *,
    machines: int = 8,
    rows: int = 8000,
    features: int = 4,
    test_rows: int = 4000,
    truth: Truth | None = None,
    different_experts: bool = False,
    seed: int = 0,
) -> Regime:
    """Draw a table and cut it.

    Args:
        name: which regime, see above.
        machines: M.
        rows: over all machines.
        features: d; ignored where ``truth`` is given.
        test_rows: rows to judge by.
        truth: parameters to use instead of the regime's own.
        different_experts: machine m fits K - 1, K or K + 1 experts in turn, instead of K.
        seed: of everything.

    Raises:
        InvalidOption: fewer than one row a machine, or fewer than two covariates.

    >>> table = regime("shifted", machines=4, rows=400, seed=1)
    >>> [len(piece) for piece in table.pieces]
    [70, 175, 111, 44]
    >>> table.truth.n_experts, table.n_experts
    (4, (4, 4, 4, 4))
    """
    if machines < 1 or rows < machines:
        raise InvalidOption(
            f"{rows} rows over {machines} machines", why="each machine needs a row", mend="more rows, or fewer machines"
        )
    chosen = truth or (hard_truth(features) if name == "hard" else even_truth(features))
    draw, cut = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
    pool = simulate(chosen, rows, draw)
    if name == "shifted":
        parts = _shifted(pool.x, chosen.correlation, machines, cut)
    else:
        parts = np.array_split(cut.permutation(rows), machines)
    offsets = (np.arange(machines) % 3 - 1) * different_experts
    return Regime(
        pieces=tuple(pool.rows(np.sort(part)) for part in parts),
        test=simulate(chosen, test_rows, np.random.default_rng([seed, 2])),
        truth=chosen,
        n_experts=tuple(max(1, chosen.n_experts + int(offset)) for offset in offsets),
    )


def simulate(truth: Truth, rows: int, rng: np.random.Generator) -> Piece:
    """Rows drawn from ``truth``."""
    x = _covariates(rows, truth.n_features, truth.correlation, rng)
    logits = truth.gate[:, 0] + x @ truth.gate[:, 1:].T
    expert = np.argmax(logits + rng.gumbel(size=logits.shape), axis=1)
    chosen = truth.coefficients[expert, 0]
    mean = chosen[:, 0] + np.einsum("nd,nd->n", x, chosen[:, 1:])
    y = mean + np.sqrt(truth.variances[expert, 0]) * rng.standard_normal(rows)
    return Piece(x, y, expert)


def _covariates(rows: int, features: int, correlation: float, rng: np.random.Generator) -> Array:
    """N(0, r^|i-j|) as an autoregression over columns, which needs no factor of Sigma."""
    x = rng.standard_normal((rows, features))
    fresh = np.sqrt(1 - correlation**2)
    for j in range(1, features):
        x[:, j] = correlation * x[:, j - 1] + fresh * x[:, j]
    return x


def _covariance(features: int, correlation: float) -> Array:
    lags = np.abs(np.subtract.outer(np.arange(features), np.arange(features)))
    return np.asarray(correlation**lags, dtype=np.float64)


def _shifted(x: Array, correlation: float, machines: int, rng: np.random.Generator) -> list[NDArray[np.intp]]:
    """Rows in the order of a noisy direction, cut at sizes whose ratios are random and end SIZE_SPREAD apart."""
    direction = rng.standard_normal((x.shape[1],))
    direction /= np.sqrt(direction @ _covariance(x.shape[1], correlation) @ direction)
    score = x @ direction + SHIFT_NOISE * rng.standard_normal(len(x))
    sizes = np.geomspace(1, SIZE_SPREAD, machines)[rng.permutation(machines)]
    cuts = np.round(np.cumsum(sizes / sizes.sum())[:-1] * (len(x) - machines)).astype(int) + np.arange(1, machines)
    return np.split(np.argsort(score, kind="stable"), cuts)


def with_shuffled_responses(piece: Piece, seed: int) -> Piece:
    """The rows of a machine that joined its tables wrongly: responses that belong to other rows."""
    order = np.random.default_rng(seed).permutation(len(piece))
    return Piece(piece.x, piece.y[order], piece.expert[order])


# The regimes' own truths ---------------------------------------------------------


def even_truth(features: int = 4) -> Truth:
    """Four experts that differ in intercept, slopes and noise, under a gate of nearly even shares."""
    _at_least_two(features)
    gate, coefficients = np.zeros((4, 1 + features)), np.zeros((4, 1, 1 + features))
    coefficients[:, 0, 0] = (-4.0, -1.5, 1.5, 4.0)
    for k in range(4):
        coefficients[k, 0, 1:] = 2.0 * np.cos(np.arange(features) * (k + 1))
        gate[k, 1:] = 1.5 * np.sin(np.arange(1, 1 + features) * (k + 1))
    return Truth(gate - gate[-1], coefficients, np.array([[0.5], [1.0], [0.5], [1.0]]))


def hard_truth(features: int = 4) -> Truth:
    """Four experts without intercepts; the first two differ in one slope only; shares of about 1/2 down to 1/20."""
    _at_least_two(features)
    gate, coefficients = np.zeros((4, 1 + features)), np.zeros((4, 1, 1 + features))
    coefficients[0, 0, 1:3] = (2.0, 0.0)
    coefficients[1, 0, 1:3] = (2.0, 1.0)
    coefficients[2, 0, 1:3] = (-2.0, 0.0)
    coefficients[3, 0, 1:3] = (0.0, -2.5)
    gate[:, 0] = (2.2, 1.6, 1.2, 0.0)
    gate[:3, 1:3] = ((1.0, -1.0), (1.0, 1.0), (-1.0, 0.5))
    return Truth(gate, coefficients, np.array([[0.5], [0.5], [0.5], [0.5]]))


def _at_least_two(features: int) -> None:
    if features < 2:
        raise InvalidOption(f"features={features}", why="the experts differ along two covariates", mend="2 or more")
