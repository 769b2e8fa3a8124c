"""How covariate summaries and precision leave their party under Gaussian noise: one priced event, then free repair.

    rows  ->  exact sums of clipped rows  ->  + noise  ->  a summary that could be one of rows
                (`clipped`, whose docstring proves the sensitivity)

What follows the noise reads only what is already private, and costs nothing: the count is at least 1, the mean inside
the ball of clipped rows, no covariance, Gram or Hessian has a negative eigenvalue, and all is in raw units.

>>> rule = ClippedGaussian(centre=np.zeros(2), scale=np.ones(2), epsilon=8.0, delta=1e-6)
>>> rows = np.random.default_rng(0).normal(size=(2000, 2))
>>> summary, events = release_covariates(rows, rule, rng=np.random.default_rng(1))
>>> bool(np.abs(summary.covariance - np.eye(2)).max() < 0.2), events[0].unit, events[0].sensitivity
(True, 'row', 2.0)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.evidence.clipped import (
    HESSIAN_SENSITIVITY,
    MOMENTS_SENSITIVITY,
    MOST_ROWS,
    ClippedGaussian,
    hessian_weights,
    noisy_matrices,
    refused,
    shares,
    weighted_moments,
)
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.evidence.gaussian import GaussianSummary, finite_table
from quiltwork.privacy import accountant
from quiltwork.privacy.events import Event, GaussianEvent

Array = NDArray[np.float64]


class NoisyPrecision(NamedTuple):
    """Grams and Hessian in raw units, positive semi-definite; ``gate_hessian`` is None for one expert."""

    expert_grams: Array
    gate_hessian: Array | None


def release_covariates(
    rows: ArrayLike, rule: ClippedGaussian, *, released: str = "covariates", rng: np.random.Generator | None = None
) -> tuple[CovariateSummary, tuple[Event, ...]]:
    """One group's count, mean and covariance under noise.

    Args:
        rows: ``[n, d]``; memory-mapped arrays are read in blocks. None at all is fine: the noise hides that too.
        rule: units, clip and price.
        released: the name under which the event is recorded.
        rng: for tests only; None draws from the operating system's entropy.

    Raises:
        InvalidOption: the rows are no finite table of the rule's columns.
    """
    table = checked_rows(rows, rule)
    sigma = accountant.calibrate_gaussian(rule.epsilon, rule.delta, MOMENTS_SENSITIVITY)
    totals = weighted_moments(table, np.ones((len(table), 1)), rule)
    noisy = noisy_matrices(totals, np.ones(1), sigma, rng)[0]
    event = GaussianEvent(released=released, unit="row", sigma=sigma, sensitivity=MOMENTS_SENSITIVITY)
    return CovariateSummary((plausible(noisy, sigma, rule),)), (event,)


def release_precision(
    rows: ArrayLike,
    responsibilities: Array,
    gate: Array,
    rule: ClippedGaussian,
    *,
    rng: np.random.Generator | None = None,
) -> tuple[NoisyPrecision, tuple[Event, ...]]:
    """Expert Grams and gate Hessian under noise, of rows as clipped.

    Args:
        rows: ``[n, d]``.
        responsibilities: float64 ``[n, K]``, each row from that row and public parameters alone; sums above 1 are
            scaled down, negative ones count as zero.
        gate: float64 ``[n, K]``, probabilities of the experts at each row, likewise.
        rule: units, clip and price.
        rng: for tests only; None draws from the operating system's entropy.

    Raises:
        InvalidOption: the rows are no finite table of the rule's columns, or shapes differ.
    """
    table = checked_rows(rows, rule)
    if responsibilities.ndim != 2 or responsibilities.shape != gate.shape or len(gate) != len(table):
        shapes = f"shapes {responsibilities.shape} and {gate.shape} do not fit {len(table)} rows"
        raise refused("responsibilities and gate", shapes)
    experts = gate.shape[1]
    sensitivity = math.hypot(MOMENTS_SENSITIVITY, HESSIAN_SENSITIVITY if experts > 1 else 0.0)
    sigma = accountant.calibrate_gaussian(rule.epsilon, rule.delta, sensitivity)
    event = GaussianEvent(released="precision", unit="row", sigma=sigma, sensitivity=sensitivity)
    grams = weighted_moments(table, shares(responsibilities), rule)
    grams = noisy_matrices(grams, np.ones(experts), sigma, rng)
    raw = rule.raw()
    if experts == 1:
        return NoisyPrecision(raw @ semidefinite(grams) @ raw.T, None), (event,)
    pairs, times = hessian_weights(gate)
    blocks = noisy_matrices(weighted_moments(table, pairs, rule), times, sigma, rng)
    wide = np.kron(np.eye(experts - 1), raw)
    hessian = wide @ semidefinite(_square(blocks, experts - 1)) @ wide.T
    return NoisyPrecision(raw @ semidefinite(grams) @ raw.T, hessian), (event,)


def _square(blocks: Array, size: int) -> Array:
    """The matrix whose block (a, b) is that of the pair, from the pairs of the upper triangle."""
    width = blocks.shape[1]
    whole = np.zeros((size, width, size, width))
    for block, first, second in zip(blocks, *np.triu_indices(size), strict=True):
        whole[first, :, second] = whole[second, :, first] = block
    return whole.reshape(size * width, size * width)


def semidefinite(matrices: Array, least: float = 0.0) -> Array:
    """The nearest symmetric matrices without eigenvalues below ``least``."""
    values, vectors = np.linalg.eigh(matrices)
    raised = (vectors * np.maximum(values, least)[..., None, :]) @ np.swapaxes(vectors, -1, -2)
    return np.asarray((raised + np.swapaxes(raised, -1, -2)) / 2, dtype=np.float64)


def plausible(noisy: Array, sigma: float, rule: ClippedGaussian) -> GaussianSummary:
    """A summary in raw units; a direction whose variance drowns in the noise gets the noise's own size."""
    count = max(float(noisy[0, 0]), 1.0)
    mean = noisy[0, 1:] / count
    mean /= max(1.0, float(np.linalg.norm(mean)))
    spread = semidefinite(noisy[1:, 1:] / count - np.outer(mean, mean), min(sigma / count, 1.0))
    reach = rule.reach
    return GaussianSummary(round(count), rule.centre + reach * mean, spread * np.outer(reach, reach))


def checked_rows(rows: ArrayLike, rule: ClippedGaussian) -> NDArray[np.generic]:
    """The rows as a table that the rule can take.

    Raises:
        InvalidOption: they are no finite table of the rule's columns, or too many to sum exactly.
    """
    table = rows if isinstance(rows, np.ndarray) and rows.ndim == 2 else finite_table(rows)
    if table.shape[1] != rule.scale.size:
        raise refused("rows", f"they have {table.shape[1]} columns, and the rule {rule.scale.size}")
    if len(table) > MOST_ROWS:
        raise refused("rows", f"there are more than {MOST_ROWS}, and sums would not be exact")
    return table
