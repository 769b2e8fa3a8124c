"""A Gaussian summary: count, mean and covariance of a fragment's rows (projected inputs, covariates).

The summary is additive. For groups A and B with means m and covariances S (population form, divided by the
count),

    n = n_A + n_B        d = m_B - m_A        m = m_A + d n_B / n
    n S = n_A S_A + n_B S_B + d d^T n_A n_B / n

(Chan, Golub and LeVeque 1979), so parts that never met merge to the summary of the whole. The density of a
row x is that of the normal distribution with the shrunk covariance ``(1 - a) S + a (tr S / d) I``, which is
invertible even where rows are fewer than dimensions (Ledoit and Wolf 2004 give the form; the amount a is an
option here).

>>> a, b = GaussianSummary.from_rows([[0.0], [2.0]]), GaussianSummary.from_rows([[4.0]])
>>> merged = a.merge(b)
>>> merged.count, float(merged.mean[0]), round(float(merged.covariance[0, 0]), 6)
(3, 2.0, 2.666667)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.errors import InvalidOption


@dataclass(frozen=True, eq=False)
class GaussianSummary:
    """First two moments of a fragment's rows. The arrays are kept as read-only copies.

    Attributes:
        count: number of rows n, at least 1.
        mean: float64 ``[d]``.
        covariance: float64 ``[d, d]``, symmetric, population form (divided by n).

    Raises:
        InvalidOption: a part is not finite, has another shape, is not symmetric, or holds a negative
            variance.
    """

    count: int
    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]

    def __post_init__(self) -> None:
        mean, covariance = np.array(self.mean, dtype=np.float64), np.array(self.covariance, dtype=np.float64)
        if self.count < 1:
            raise _refused(f"count={self.count}", "a summary needs at least one row")
        if mean.ndim != 1 or mean.size == 0 or covariance.shape != (mean.size, mean.size):
            raise _refused("mean and covariance", f"shapes {mean.shape} and {covariance.shape} do not fit [d], [d, d]")
        if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
            raise _refused("mean and covariance", "they are not all finite")
        if not np.allclose(covariance, covariance.T, rtol=1e-6, atol=1e-9 * np.abs(covariance).max()):
            raise _refused("covariance", "it is not symmetric")
        if (covariance.diagonal() < 0).any():
            raise _refused("covariance", "a variance on its diagonal is negative")
        for name, array in (("mean", mean), ("covariance", covariance)):
            array.setflags(write=False)
            object.__setattr__(self, name, array)

    @classmethod
    def from_rows(cls, rows: ArrayLike) -> GaussianSummary:
        """Summarise rows ``(n, d)``; computed in float64.

        For more rows than fit in memory, summarise blocks and `merge` them.

        Raises:
            InvalidOption: the rows are not a finite table with at least one row and column.
        """
        table = finite_table(rows)
        if len(table) == 0:
            raise _refused("rows", "there are none", "Give a table of finite numbers, one row each.")
        mean = table.mean(axis=0)
        centred = table - mean
        return cls(len(table), mean, centred.T @ centred / len(table))

    def merge(self, other: GaussianSummary) -> GaussianSummary:
        """The summary of both groups of rows together (Chan et al. 1979; exact up to rounding).

        Raises:
            InvalidOption: the dimensions differ.
        """
        if self.mean.shape != other.mean.shape:
            raise _refused(
                "summaries",
                f"they have {self.mean.size} and {other.mean.size} dimensions",
                "Project the rows of both alike.",
            )
        count = self.count + other.count
        own, its = self.count / count, other.count / count
        step = other.mean - self.mean
        covariance = own * self.covariance + its * other.covariance + own * its * np.outer(step, step)
        return GaussianSummary(count, self.mean + its * step, covariance)

    def log_density(self, x: ArrayLike, shrinkage: float = 1e-3) -> NDArray[np.float64]:
        """Natural logarithm of the normal density at each row of ``x``.

        Args:
            x: ``(n, d)``.
            shrinkage: the share a of a sphere of the same mean variance that is mixed into the covariance, in
                [0, 1].

        Returns:
            float64 ``(n,)``.

        Raises:
            InvalidOption: x or the shrinkage does not fit, or the shrunk covariance is still singular.
        """
        table = finite_table(x)
        if table.shape[1] != self.mean.size:
            raise _refused(
                "x",
                f"it has {table.shape[1]} columns, and the summary {self.mean.size} dimensions",
                "Project x as the rows were.",
            )
        factor = self._cholesky(shrinkage)
        whitened = np.linalg.solve(factor, (table - self.mean).T)
        log_volume = 2 * np.log(factor.diagonal()).sum() + self.mean.size * math.log(2 * math.pi)
        return np.asarray(-0.5 * ((whitened**2).sum(axis=0) + log_volume), dtype=np.float64)

    def _cholesky(self, shrinkage: float) -> NDArray[np.float64]:
        """Lower triangle L with ``L L^T`` the shrunk covariance."""
        if not 0 <= shrinkage <= 1:
            raise InvalidOption(f"shrinkage={shrinkage}", why="it is a share", mend="Choose one between 0 and 1.")
        size = self.mean.size
        sphere = np.eye(size) * (np.trace(self.covariance) / size)
        try:
            return np.asarray(np.linalg.cholesky((1 - shrinkage) * self.covariance + shrinkage * sphere))
        except np.linalg.LinAlgError as error:
            raise InvalidOption(
                f"covariance with shrinkage={shrinkage}",
                why="it is not positive definite, so it has no density",
                mend="Choose a larger shrinkage; if all rows were equal, leave the summary out.",
            ) from error


def finite_table(rows: ArrayLike) -> NDArray[np.float64]:
    """``rows`` as float64 ``(n, d)``.

    Raises:
        InvalidOption: they are not a table with at least one column, or not all finite.
    """
    table = np.asarray(rows, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise _refused(
            "rows",
            f"they have shape {table.shape}, not (rows, dimensions)",
            "Give a table of finite numbers, one row each.",
        )
    if not np.isfinite(table).all():
        raise _refused("rows", "they are not all finite", "Give a table of finite numbers, one row each.")
    return table


def _refused(
    what: str, why: str, mend: str = "Summarise the rows again with GaussianSummary.from_rows."
) -> InvalidOption:
    return InvalidOption(what, why=why, mend=mend)
