"""Weights of machines by evidence, against Bayes' rule with scipy's densities."""

from __future__ import annotations

import numpy as np
from scipy.stats import multivariate_normal

from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.models.mixture.machine_weights import EvidenceWeights, pooled_scale

RNG = np.random.default_rng(0)
TABLES = [RNG.normal(size=(n, 2)) @ np.diag([1.0, 5.0]) + shift for n, shift in ((50, 0.0), (200, 2.0), (90, -3.0))]
SUMMARIES = tuple(CovariateSummary.from_rows(table) for table in TABLES)


def test_weights_are_the_posterior_over_machines() -> None:
    x, counts = RNG.normal(size=(40, 2)), np.array([50.0, 200, 90])
    shrunk = [0.999 * s.covariance + 0.001 * np.diag(pooled_scale(SUMMARIES) ** 2) for s in SUMMARIES]
    joint = [n * multivariate_normal(s.mean, c).pdf(x) for n, s, c in zip(counts, SUMMARIES, shrunk, strict=True)]
    expected = np.stack(joint, axis=1) / np.sum(joint, axis=0)[:, None]
    np.testing.assert_allclose(np.exp(EvidenceWeights(SUMMARIES).log_weights(x)), expected, rtol=1e-8)
    alike = np.exp(EvidenceWeights(SUMMARIES, np.ones(3)).log_weights(x))
    prior = alike * counts
    np.testing.assert_allclose(prior / prior.sum(axis=1, keepdims=True), expected, rtol=1e-8)
    assert np.abs(alike - expected).max() > 0.01


def test_the_pooled_scale_is_that_of_all_rows_together() -> None:
    np.testing.assert_allclose(pooled_scale(SUMMARIES), np.concatenate(TABLES).std(axis=0), rtol=1e-10)


def test_far_away_the_weights_are_still_normalised() -> None:
    logs = EvidenceWeights(SUMMARIES).log_weights(np.array([[1e6, -1e6]]))
    assert np.isfinite(logs).all()
    np.testing.assert_allclose(np.exp(logs).sum(), 1.0)
