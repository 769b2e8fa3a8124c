"""Class moments under Gaussian noise: one priced event, then free repair, as in `moments_release`.

With u the clipped row of `clipped` (at most 1 long), u~ = (1, u) and y its class, a party releases

    per_class    T_c = sum over rows of class c of u~ u~'           one matrix a class
    pooled       (n_c, sum_c u) a class, and sum u u' over all rows

A row more or less changes one class only, so with each distinct number counted as in `clipped` the L2 sensitivity is

    per_class    |u~ u~'| = 1 + |u|^2 <= 2
    pooled       sqrt(1 + |u|^2 + |u|^4) <= sqrt 3

The label decides where a row counts and nothing else; it is protected with its row. Which classes a party holds is
hidden by the noise too: a class whose noisy count is below the declared minimum is left out afterwards.

>>> rule = ClippedGaussian(centre=np.zeros(2), scale=np.ones(2), epsilon=8.0, delta=1e-6)
>>> rng = np.random.default_rng(0)
>>> rows, labels = rng.normal(size=(4000, 2)), rng.integers(0, 2, size=4000)
>>> moments, events = release_class_moments(rows, labels, 2, rule, rng=rng)
>>> bool(np.abs(moments.covariances - np.eye(2)).max() < 0.2), round(events[0].sensitivity, 3)
(True, 1.732)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.evidence.class_moments import MINIMUM_ROWS, ClassMoments, Form, class_labels
from quiltwork.evidence.clipped import MOMENTS_SENSITIVITY, ClippedGaussian, noisy_matrices, weighted_moments
from quiltwork.evidence.moments_release import checked_rows, plausible, semidefinite
from quiltwork.privacy import accountant, mechanisms
from quiltwork.privacy.events import Event, GaussianEvent

Array = NDArray[np.float64]

POOLED_SENSITIVITY = math.sqrt(3.0)
"""L2 sensitivity of counts, sums and one second moment together."""


def release_class_moments(
    rows: ArrayLike,
    labels: ArrayLike,
    classes: int,
    rule: ClippedGaussian,
    form: Form = "pooled",
    *,
    minimum_rows: int = MINIMUM_ROWS,
    released: str = "classes",
    rng: np.random.Generator | None = None,
) -> tuple[ClassMoments, tuple[Event, ...]]:
    """Moments of each class under noise, in raw units.

    Args:
        rows: ``[n, d]``; memory-mapped arrays are read in blocks.
        labels: ``[n]``, whole numbers in ``0 .. classes - 1``.
        classes: k, public.
        rule: units, clip and price.
        form: one covariance for all classes, or one each.
        minimum_rows: a class whose noisy count is lower is left out; if all are, the largest stays.
        released: the name under which the event is recorded.
        rng: for tests only; None draws from the operating system's entropy.

    Raises:
        InvalidOption: rows, labels and rule do not fit.
    """
    table = checked_rows(rows, rule)
    held = class_labels(labels, len(table), classes)
    one_hot = (held[:, None] == np.arange(classes)).astype(np.float64)
    sensitivity = POOLED_SENSITIVITY if form == "pooled" else MOMENTS_SENSITIVITY
    sigma = accountant.calibrate_gaussian(rule.epsilon, rule.delta, sensitivity)
    event = GaussianEvent(released=released, unit="row", sigma=sigma, sensitivity=sensitivity)
    totals = weighted_moments(table, one_hot, rule)
    if form == "per_class":
        noisy = noisy_matrices(totals, np.ones(classes), sigma, rng)
        return _per_class(noisy, sigma, rule, minimum_rows), (event,)
    sums = mechanisms.gaussian(totals[:, 0], sigma, rng)
    second = noisy_matrices(totals[:, 1:, 1:].sum(axis=0)[None], np.ones(1), sigma, rng)[0]
    return _pooled(sums, second, sigma, rule, minimum_rows), (event,)


def _per_class(noisy: Array, sigma: float, rule: ClippedGaussian, minimum_rows: int) -> ClassMoments:
    counts = _counts(noisy[:, 0, 0], minimum_rows)
    means, covariances = np.zeros(noisy[:, 0, 1:].shape), np.zeros(noisy[:, 1:, 1:].shape)
    for number in np.flatnonzero(counts):
        part = plausible(noisy[number], sigma, rule)
        means[number], covariances[number] = part.mean, part.covariance
    return ClassMoments(counts, means, covariances)


def _pooled(sums: Array, second: Array, sigma: float, rule: ClippedGaussian, minimum_rows: int) -> ClassMoments:
    """Within-class scatter is the second moment less what the means explain, of the classes that stay."""
    counts = _counts(sums[:, 0], minimum_rows)
    means = sums[:, 1:] / np.maximum(sums[:, :1], 1.0)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1.0)
    total = max(float(np.maximum(sums[:, 0], 0.0).sum()), 1.0)
    between = (means * np.maximum(sums[:, :1], 0.0)).T @ means
    spread = semidefinite((second - between) / total, min(sigma / total, 1.0))
    held, reach = (counts > 0)[:, None], rule.reach
    return ClassMoments(counts, np.where(held, rule.centre + reach * means, 0.0), spread * np.outer(reach, reach))


def _counts(noisy: Array, minimum_rows: int) -> Array:
    """Whole numbers; a class below the minimum counts nothing."""
    counts = np.rint(np.where(noisy >= max(minimum_rows, 1), noisy, 0.0))
    if not counts.any():
        counts[int(np.argmax(noisy))] = max(1.0, float(np.rint(noisy.max())))
    return np.asarray(counts, dtype=np.float64)
