"""Covariates of each machine, drawn from its own summary: where its model is at home.

Each party's stream is its own (`quiltwork.compose.support`), so another party more or less leaves its rows alone but
for their number. Where there are enough of them they are moved affinely to have exactly the mean and covariance that
the party declared, which takes most of the noise out of least squares on drawn rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quiltwork.compose.support import draw_support, rows_of, summary_of
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.local import Local

ROWS_A_COLUMN = 4
"""A machine gets at least so many rows for each covariate, as long as an equal share of all rows allows it."""


def home_rows(locals_: Sequence[Local], total: int, seed: int, fewest: int = 20) -> list[Array]:
    """About ``total`` rows, in proportion to the machines' rows: float64 ``[S_m, d]`` each.

    Args:
        locals_: machines with covariate summaries.
        total: how many; lifting small shares may take up to twice as many.
        seed: of the draws.
        fewest: rows of a machine, whatever its share.

    Raises:
        MissingPart: a machine declared no summary.
    """
    columns = 1 + locals_[0].mixture.n_features
    least = max(fewest, min(ROWS_A_COLUMN * columns, total // len(locals_)))
    counts = np.maximum(np.rint(total * rows_of(locals_) / rows_of(locals_).sum()).astype(int), least)
    return [_matched(draw_support([one], int(n), seed), one) for one, n in zip(locals_, counts, strict=True)]


def _matched(x: Array, local: Local) -> Array:
    """The rows with the declared mean and covariance; as they are where they are too few to be moved."""
    if len(x) < ROWS_A_COLUMN * (1 + x.shape[1]):
        return x
    summary, centred = summary_of(local), x - x.mean(axis=0)
    scale = np.sqrt(summary.covariance.diagonal())
    scale = np.where(scale > 0, scale, 1.0)
    unit = centred / scale
    shape = _power(unit.T @ unit / len(x), -0.5) @ _power(summary.covariance / np.outer(scale, scale), 0.5)
    return np.asarray(summary.mean + (unit @ shape) * scale)


def _power(matrix: Array, exponent: float) -> Array:
    """A power of a symmetric positive semi-definite matrix; directions without variance stay without."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > 1e-10 * max(float(values[-1]), 1e-300)
    powers = np.where(kept, np.where(kept, values, 1.0) ** exponent, 0.0)
    return np.asarray((vectors * powers) @ vectors.T)
