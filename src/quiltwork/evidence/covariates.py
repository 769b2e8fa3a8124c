"""A covariate summary: where a party's rows lie, as a small mixture of Gaussians.

J groups of rows, each with its count n_j, mean m_j and covariance S_j (population form), have the density

    p(x) = sum_j n_j / n  N(x; m_j, (1 - a) S_j + a diag(v))          v = variances of all rows together

The shrinkage a goes towards the diagonal and not, as in `GaussianSummary`, towards a sphere: covariates come in units
of their own, and in other units of a column the same rows have the same posterior over parties. From the summaries of
all parties follow the weights of machines at x, and covariates to compare their models on, with no row of anyone's
data.

A group of few rows shows them nearly as they are (one of a single row does), so groups below a declared minimum are
dissolved into their neighbours.

>>> rows = np.array([[0.0], [1.0], [2.0], [100.0], [101.0], [102.0]])
>>> two = CovariateSummary.from_rows(rows, components=2, minimum_rows=2)
>>> sorted(float(part.mean[0]) for part in two.parts)
[1.0, 101.0]
>>> two.count, float(two.mean[0])
(6, 51.0)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.errors import InvalidOption
from quiltwork.evidence.gaussian import GaussianSummary, finite_table
from quiltwork.evidence.groups import k_means, row_blocks, summaries

Array = NDArray[np.float64]

MINIMUM_ROWS = 10
"""Fewest rows of a group, unless stated."""

LARGEST = 1e100
"""Numbers beyond this overflow in squares."""

_SAMPLE = 20_000
_DEGENERATE = 1e-6
_ROUNDING = 1e-13
_LEAST_SHRINKAGE = 1e-6


@dataclass(frozen=True, eq=False)
class CovariateSummary:
    """Counts, means and covariances of groups of rows.

    Attributes:
        parts: one summary a group, in raw units; at least one, all of one dimension.

    Raises:
        InvalidOption: there is no part, dimensions differ, a number is so large that its square overflows, or a
            covariance is none (an eigenvalue below zero by more than rounding).
    """

    parts: tuple[GaussianSummary, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise _refused("a covariate summary without parts", "it describes no rows")
        if len({part.mean.size for part in self.parts}) > 1:
            raise _refused("a covariate summary", "its parts have different dimensions")
        for number, part in enumerate(self.parts):
            if not all((np.abs(array) < LARGEST).all() for array in (part.mean, part.covariance)):
                raise _refused(f"part {number} of a covariate summary", f"it holds a number of {LARGEST:g} or more")
            if not _is_covariance(part.covariance):
                raise _refused(f"covariance {number}", "it has a negative eigenvalue, so no rows have it")

    @classmethod
    def from_rows(
        cls, rows: ArrayLike, components: int = 1, seed: int = 0, *, minimum_rows: int = MINIMUM_ROWS
    ) -> CovariateSummary:
        """Summarise rows ``[n, d]``, read in blocks: memory-mapped arrays stay on disk.

        More than one group is found by k-means on standardised columns (Lloyd 1982; starts by Arthur and Vassilvitskii
        2007), on at most 20 000 rows drawn by ``seed``; then every row counts in the group of the nearest centre. The
        smallest group below ``minimum_rows`` is dissolved and its rows go to their next nearest centre, until none is
        below.

        Args:
            rows: finite numbers; float32 is taken too, sums are float64.
            components: J, the most groups.
            seed: of the draw and the starts.
            minimum_rows: fewest rows of a group.

        Raises:
            InvalidOption: an option is out of its domain, the rows are no finite table, or fewer than the minimum.
        """
        _require_whole("components", components, 64)
        _require_whole("minimum_rows", minimum_rows, 2**53)
        table = rows if isinstance(rows, np.ndarray) and rows.ndim == 2 else finite_table(rows)
        whole = cls.from_blocks(row_blocks(table), minimum_rows=minimum_rows)
        if components == 1:
            return whole
        scale = deviations(whole.parts[0])
        rng = np.random.default_rng(seed)
        draw = np.sort(rng.choice(len(table), min(len(table), _SAMPLE), replace=False))
        centres = k_means((finite_table(table[draw]) - whole.mean) / scale, components, rng)
        return cls(summaries(table, centres * scale + whole.mean, scale, minimum_rows))

    @classmethod
    def from_blocks(cls, blocks: Iterable[ArrayLike], *, minimum_rows: int = MINIMUM_ROWS) -> CovariateSummary:
        """One group of all rows of a stream of tables ``[n_i, d]``; memory is that of a block.

        Raises:
            InvalidOption: a block is no finite table, columns differ, or there are fewer rows than the minimum.
        """
        whole: GaussianSummary | None = None
        for block in blocks:
            if len(table := finite_table(block)):
                part = GaussianSummary.from_rows(table)
                whole = part if whole is None else whole.merge(part)
        count = 0 if whole is None else whole.count
        if whole is None or count < minimum_rows:
            raise InvalidOption(
                f"a table of {count} rows",
                why=f"a summary of fewer than {minimum_rows} would show them",
                mend="Leave the summary out (covariates none), or wait for more rows.",
            )
        return cls((whole,))

    @classmethod
    def from_arrays(cls, counts: Array, means: Array, covariances: Array) -> CovariateSummary:
        """The summary of ``counts`` [J], ``means`` [J, d] and ``covariances`` [J, d, d]; counts are rounded.

        Raises:
            InvalidOption: the arrays describe no rows.
        """
        rows = zip(counts, means, covariances, strict=True)
        return cls(tuple(GaussianSummary(max(1, round(float(n))), mean, spread) for n, mean, spread in rows))

    def arrays(self) -> dict[str, Array]:
        """``counts`` [J], ``means`` [J, d] and ``covariances`` [J, d, d], what `from_arrays` takes."""
        return {
            "counts": np.array([part.count for part in self.parts], dtype=np.float64),
            "means": np.stack([part.mean for part in self.parts]),
            "covariances": np.stack([part.covariance for part in self.parts]),
        }

    def merge(self, other: CovariateSummary) -> CovariateSummary:
        """The summary of both parties' rows: the groups of both."""
        return CovariateSummary(self.parts + other.parts)

    @cached_property
    def whole(self) -> GaussianSummary:
        """All groups as one."""
        return reduce(GaussianSummary.merge, self.parts)

    @property
    def count(self) -> int:
        """n, rows of all groups."""
        return self.whole.count

    @property
    def n_features(self) -> int:
        """d."""
        return int(self.whole.mean.size)

    @property
    def mean(self) -> Array:
        """Mean of all rows, float64 ``[d]``."""
        return self.whole.mean

    @property
    def covariance(self) -> Array:
        """Covariance of all rows, within and between groups, float64 ``[d, d]``."""
        return self.whole.covariance

    def log_density(self, x: ArrayLike, shrinkage: float = 1e-3, scale: Array | None = None) -> Array:
        """Natural logarithm of the density at each row of ``x``.

        Args:
            x: ``[n, d]``, raw units.
            shrinkage: a, in [1e-6, 1].
            scale: standard deviations ``[d]`` whose squares stand for v. Where several parties are compared, give all
                of them one scale, such as that of the pooled rows: a column that is constant for one party would else
                make it a spike. None: this summary's own, and a millionth of its mean (of 1, at mean 0) for a constant
                column.

        Returns:
            float64 ``[n]``.

        Raises:
            InvalidOption: x, the shrinkage or the scale does not fit.
        """
        table = finite_table(x)
        if table.shape[1] != self.n_features:
            why = f"it has {table.shape[1]} columns, and the summary {self.n_features}"
            raise InvalidOption("x", why=why, mend="Give the columns that were summarised.")
        _require_shrinkage(shrinkage)
        spread = deviations(self.whole) if scale is None else _require_scale(scale, self.n_features)
        groups = [np.log(part.count / self.count) + _log_normal(table, part, spread, shrinkage) for part in self.parts]
        return np.asarray(np.logaddexp.reduce(groups, axis=0), dtype=np.float64)

    def sample(self, n: int, rng: np.random.Generator) -> Array:
        """``n`` rows of the mixture without shrinkage, float64 ``[n, d]``; degenerate covariances are taken."""
        shares = np.cumsum([part.count / self.count for part in self.parts])
        which = np.minimum(np.searchsorted(shares, rng.random(n), side="right"), len(self.parts) - 1)
        rows = rng.standard_normal((n, self.n_features))
        for number, part in enumerate(self.parts):
            mine = which == number
            rows[mine] = part.mean + rows[mine] @ _root(part.covariance)
        return rows


def deviations(summary: GaussianSummary) -> Array:
    """Standard deviations ``[d]``; a millionth of its size for a constant column, so that nothing divides by zero."""
    size, deviations = np.abs(summary.mean), np.sqrt(summary.covariance.diagonal())
    constant = deviations <= _ROUNDING * size
    return np.where(constant, _DEGENERATE * np.where(size > 0, size, 1.0), deviations)


def _log_normal(x: Array, part: GaussianSummary, scale: Array, shrinkage: float) -> Array:
    """Log-density of one group."""
    factor, volume = _factor(part, scale, shrinkage)
    whitened = np.linalg.solve(factor, ((x - part.mean) / scale).T)
    return np.asarray(-0.5 * (whitened**2).sum(axis=0) - volume, dtype=np.float64)


def whitening(part: GaussianSummary, scale: Array, shrinkage: float) -> tuple[Array, float]:
    """W float64 ``[d, d]`` and v of ``log N(x) = -|(x - mean) W|^2 / 2 - v`` for one shrunk group.

    Args:
        part: the group.
        scale: standard deviations ``[d]`` whose squares the covariance is shrunk to.
        shrinkage: a, in [1e-6, 1].

    Raises:
        InvalidOption: the shrinkage or the scale does not fit.
    """
    _require_shrinkage(shrinkage)
    factor, volume = _factor(part, _require_scale(scale, part.mean.size), shrinkage)
    return np.linalg.inv(factor).T / scale[:, None], volume


def _factor(part: GaussianSummary, scale: Array, shrinkage: float) -> tuple[Array, float]:
    """Cholesky factor in units of ``scale``, where the shrunk covariance is well conditioned, and log-volume."""
    covariance = (1 - shrinkage) * _scaled(part.covariance, scale) + shrinkage * np.eye(scale.size)
    factor = np.linalg.cholesky(covariance)
    volume = np.log(factor.diagonal()).sum() + np.log(scale).sum() + 0.5 * scale.size * np.log(2 * np.pi)
    return np.asarray(factor), float(volume)


def _scaled(matrix: Array, scale: Array) -> Array:
    """In units of ``scale``; divided twice, for the product of two small scales underflows."""
    return np.asarray(matrix / scale[:, None] / scale, dtype=np.float64)


def _root(covariance: Array) -> Array:
    """The symmetric square root, which unlike eigenvectors has no free signs."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T, dtype=np.float64)


def _is_covariance(matrix: Array) -> bool:
    """No eigenvalue of the correlations is below zero by more than rounding."""
    deviations = np.sqrt(matrix.diagonal())
    scale = np.where(deviations > 0, deviations, 1.0)
    return bool(np.linalg.eigvalsh(_scaled(matrix, scale)).min() >= -1e-8)


def _require_whole(name: str, value: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value <= most:
        raise InvalidOption(
            f"{name}={value!r}", why=f"it is not a whole number from 1 to {most}", mend="Choose one that is."
        )


def _require_shrinkage(shrinkage: float) -> None:
    if not _LEAST_SHRINKAGE <= shrinkage <= 1:
        mend = f"Choose one from {_LEAST_SHRINKAGE:g} to 1."
        raise InvalidOption(f"shrinkage={shrinkage}", why="it is a share, and not too close to zero", mend=mend)


def _require_scale(scale: ArrayLike, size: int) -> Array:
    values = np.asarray(scale, dtype=np.float64)
    if values.shape != (size,) or not (np.isfinite(values) & (values > 0)).all():
        raise InvalidOption(
            "scale", why="it is not one positive number a column", mend=f"Give {size} standard deviations."
        )
    return values


def _refused(what: str, why: str) -> InvalidOption:
    return InvalidOption(what, why=why, mend="Summarise the rows again with CovariateSummary.from_rows.")
