"""Moments of each class: where a party's rows of every class lie, from which a classifier follows in closed form.

For class c with n_c rows, mean m_c and covariance S_c (population form),

    per_class    n_c, m_c, S_c                     k d (d + 1) numbers and k counts
    pooled       n_c, m_c, S = sum_c n_c S_c / n   all classes share one covariance, that within classes

Both are additive. Classes of two parties merge one by one as in `GaussianSummary.merge`; for the pooled covariance

    n S = n_A S_A + n_B S_B + sum_c (n_Ac n_Bc / n_c) d_c d_c'        d_c = m_Bc - m_Ac

so the merged moments are those of all rows together, and any function of them (`models.network.gaussian_head`) is the
one that pooled training would give. One talk, no training: the one-shot family of arXiv 2602.01186.

A class of few rows shows them nearly as they are. Classes below a declared minimum are left out, rows and all, and
look like classes that the party never saw.

>>> rows, labels = np.array([[0.0], [2.0], [10.0], [12.0]]), np.array([0, 0, 1, 1])
>>> moments = ClassMoments.from_rows(rows, labels, classes=3, minimum_rows=2)
>>> moments.counts.tolist(), moments.means.tolist(), moments.covariances.tolist()
([2.0, 2.0, 0.0], [[1.0], [11.0], [0.0]], [[1.0]])
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.errors import InvalidOption
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.evidence.gaussian import finite_table
from quiltwork.evidence.groups import row_blocks

Array = NDArray[np.float64]
Form: TypeAlias = Literal["pooled", "per_class"]

MINIMUM_ROWS = 10
"""Fewest rows of a class, unless stated."""

MOST_CLASSES = 10_000

MOST_NUMBERS = 2**26
"""Numbers in all covariances together: half a gigabyte."""


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """Counts, means and covariances of k classes in d dimensions. The arrays are kept as read-only copies.

    Attributes:
        counts: float64 ``[k]``, whole numbers, not all zero.
        means: float64 ``[k, d]``; zeros where a class has no rows.
        covariances: float64 ``[d, d]`` (pooled) or ``[k, d, d]`` (per class), population form, raw units.

    Raises:
        InvalidOption: shapes do not fit, a number is not finite, a count is no count, or a covariance is not
            symmetric or has a negative eigenvalue.
    """

    counts: Array
    means: Array
    covariances: Array

    def __post_init__(self) -> None:
        for name in ("counts", "means", "covariances"):
            array = np.array(getattr(self, name), dtype=np.float64)
            if not np.isfinite(array).all():
                raise _refused(name, "they are not all finite")
            array.setflags(write=False)
            object.__setattr__(self, name, array)
        _check_shapes(self.counts, self.means, self.covariances)
        _check_covariances(self.covariances if self.covariances.ndim == 3 else self.covariances[None])

    @classmethod
    def from_rows(
        cls,
        rows: ArrayLike,
        labels: ArrayLike,
        classes: int,
        form: Form = "pooled",
        *,
        minimum_rows: int = MINIMUM_ROWS,
    ) -> ClassMoments:
        """Moments of rows ``[n, d]`` with labels ``[n]`` in ``0 .. classes - 1``; read in blocks, summed in float64.

        Args:
            rows: finite numbers, one row each.
            labels: whole numbers.
            classes: k; all parties name the same.
            form: one covariance for all classes, or one each.
            minimum_rows: a class with fewer is left out.

        Raises:
            InvalidOption: rows and labels do not fit, or no class has the minimum.
        """
        table = rows if isinstance(rows, np.ndarray) and rows.ndim == 2 else finite_table(rows)
        held = class_labels(labels, len(table), classes)
        counts = np.bincount(held, minlength=classes)
        kept = (counts >= max(minimum_rows, 1))[held]
        if not kept.any():
            raise InvalidOption(
                f"{len(table)} rows of {classes} classes",
                why=f"no class has {minimum_rows} rows, and moments of fewer would show them",
                mend="Leave the moments out, or wait for more rows.",
            )
        blocks, start = [], 0
        for block in row_blocks(table):
            stop = start + len(block)
            mine = kept[start:stop]
            if mine.any():
                blocks.append(_block_moments(block[mine], held[start:stop][mine], classes, form))
            start = stop
        return cls.merged(blocks)

    @classmethod
    def merged(cls, moments: Iterable[ClassMoments]) -> ClassMoments:
        """All of them together, in the order given.

        Raises:
            InvalidOption: there are none, or they do not fit each other.
        """
        parts = list(moments)
        if not parts:
            raise _refused("class moments", "there are none to merge")
        return reduce(ClassMoments.merge, parts)

    def arrays(self) -> dict[str, Array]:
        """``counts``, ``means`` and ``covariances``, what the constructor takes."""
        return {"counts": self.counts, "means": self.means, "covariances": self.covariances}

    @property
    def form(self) -> Form:
        """Whether classes share one covariance."""
        return "pooled" if self.covariances.ndim == 2 else "per_class"

    @property
    def count(self) -> int:
        """n, rows of all classes."""
        return round(float(self.counts.sum()))

    @property
    def classes(self) -> int:
        """k."""
        return len(self.counts)

    @property
    def n_features(self) -> int:
        """d."""
        return int(self.means.shape[1])

    def covariates(self) -> CovariateSummary:
        """The density of all rows as a mixture with one component a class: the same numbers, read as evidence.

        Raises:
            InvalidOption: a covariance for each class would be beyond `MOST_NUMBERS`.
        """
        held = self.counts > 0
        if int(held.sum()) * self.n_features**2 > MOST_NUMBERS:
            raise InvalidOption(
                f"evidence of {int(held.sum())} classes in {self.n_features} dimensions",
                why=f"a covariance for each would make more than {MOST_NUMBERS} numbers",
                mend="Take the evidence of inputs, or an embedding of fewer dimensions.",
            )
        spreads = np.broadcast_to(self.covariances, (self.classes, self.n_features, self.n_features))
        return CovariateSummary.from_arrays(self.counts[held], self.means[held], spreads[held])

    def merge(self, other: ClassMoments) -> ClassMoments:
        """The moments of both parties' rows together; exact up to rounding.

        Raises:
            InvalidOption: classes, dimensions or forms differ.
        """
        if self.means.shape != other.means.shape or self.form != other.form:
            mine, its = (f"{m.form} {m.means.shape}" for m in (self, other))
            raise InvalidOption(
                "class moments",
                why=f"they are of {mine} and {its}",
                mend="Use one embedding, form and class list.",
            )
        counts = self.counts + other.counts
        share = np.divide(other.counts, counts, out=np.zeros_like(counts), where=counts > 0)
        step = other.means - self.means
        means = np.where((self.counts > 0)[:, None], self.means + share[:, None] * step, other.means)
        weighted = (self.counts * share)[:, None] * step
        if self.form == "pooled":
            # one product of matrices: a square for each class may not fit in memory
            scatter = self.count * self.covariances + other.count * other.covariances + weighted.T @ step
            return ClassMoments(counts, means, (scatter + scatter.T) / 2 / counts.sum())
        between = weighted[:, :, None] * step[:, None, :]
        scatter = self.counts[:, None, None] * self.covariances + other.counts[:, None, None] * other.covariances
        return ClassMoments(counts, means, (scatter + between) / np.maximum(counts, 1)[:, None, None])

    def pooled(self) -> ClassMoments:
        """The same with one covariance for all classes."""
        if self.form == "pooled":
            return self
        shares = self.counts / self.counts.sum()
        return ClassMoments(self.counts, self.means, np.einsum("c,cde->de", shares, self.covariances))


def _block_moments(rows: Array, labels: NDArray[np.int64], classes: int, form: Form) -> ClassMoments:
    """The moments of one block; covariances of centred rows, so nothing cancels."""
    counts = np.bincount(labels, minlength=classes).astype(np.float64)
    means = np.zeros((classes, rows.shape[1]))
    for number in np.flatnonzero(counts):
        means[number] = rows[labels == number].mean(axis=0)
    centred = rows - means[labels]
    if form == "pooled":
        return ClassMoments(counts, means, centred.T @ centred / len(rows))
    covariances = np.zeros((classes, rows.shape[1], rows.shape[1]))
    for number in np.flatnonzero(counts):
        mine = centred[labels == number]
        covariances[number] = mine.T @ mine / len(mine)
    return ClassMoments(counts, means, covariances)


def class_labels(labels: ArrayLike, rows: int, classes: int) -> NDArray[np.int64]:
    """Labels as int64 ``[rows]``.

    Raises:
        InvalidOption: they are not one whole number in ``0 .. classes - 1`` a row, or there are too many classes.
    """
    if isinstance(classes, bool) or not isinstance(classes, int | np.integer) or not 1 <= classes <= MOST_CLASSES:
        why = f"it is not a whole number from 1 to {MOST_CLASSES}"
        raise InvalidOption(f"classes={classes!r}", why=why, mend="Choose one that is.")
    given = np.asarray(labels)
    if given.shape != (rows,) or given.dtype.kind not in "iu":
        why = f"they have shape {given.shape} and dtype {given.dtype}, for {rows} rows"
        raise InvalidOption("labels", why=why, mend="Give one whole number a row.")
    if rows and (given.min() < 0 or given.max() >= classes):
        raise InvalidOption("labels", why=f"one is outside 0..{classes - 1}", mend="Number classes from 0.")
    return given.astype(np.int64)


def _check_shapes(counts: Array, means: Array, covariances: Array) -> None:
    if counts.ndim != 1 or means.ndim != 2 or not means.size or len(means) != len(counts):
        raise _refused("counts and means", f"shapes {counts.shape} and {means.shape} do not fit [k], [k, d]")
    size = means.shape[1]
    if covariances.shape not in ((size, size), (len(counts), size, size)):
        raise _refused("covariances", f"shape {covariances.shape} is not ({size}, {size}), nor one such a class")
    if (counts < 0).any() or (counts != np.rint(counts)).any() or not counts.any():
        raise _refused("counts", "they are no numbers of rows, or all zero")


def _check_covariances(covariances: Array) -> None:
    """Symmetric, and in units of their own deviations without negative eigenvalues beyond rounding."""
    for number, matrix in enumerate(covariances):
        if not np.allclose(matrix, matrix.T, rtol=1e-6, atol=1e-9 * np.abs(matrix).max()):
            raise _refused(f"covariance {number}", "it is not symmetric")
        variances = matrix.diagonal()
        if (variances < 0).any():
            raise _refused(f"covariance {number}", "a variance on its diagonal is negative")
        scale = np.sqrt(np.where(variances > 0, variances, 1.0))
        if np.linalg.eigvalsh(matrix / scale[:, None] / scale).min() < -1e-8:
            raise _refused(f"covariance {number}", "it has a negative eigenvalue, so no rows have it")


def _refused(what: str, why: str) -> InvalidOption:
    return InvalidOption(what, why=why, mend="Summarise the rows again with ClassMoments.from_rows.")
