"""Gaussian summaries against numpy on the pooled rows and scipy's normal density."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from quiltwork.errors import InvalidOption
from quiltwork.evidence.gaussian import GaussianSummary

seeds = st.integers(0, 2**32 - 1)


def table(seed: int, rows: int, columns: int, offset: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(rows, columns)) @ rng.normal(size=(columns, columns))
    return mixed + rng.normal(size=columns) + offset


def assert_same(first: GaussianSummary, second: GaussianSummary, rtol: float = 1e-9) -> None:
    assert first.count == second.count
    np.testing.assert_allclose(first.mean, second.mean, rtol=rtol, atol=rtol)
    np.testing.assert_allclose(first.covariance, second.covariance, rtol=rtol, atol=rtol)


@settings(deadline=None)
@given(seeds, st.integers(1, 30), st.integers(1, 5))
def test_from_rows_is_numpys_mean_and_population_covariance(seed: int, rows: int, columns: int) -> None:
    x = table(seed, rows, columns)
    summary = GaussianSummary.from_rows(x)
    assert summary.count == rows
    np.testing.assert_allclose(summary.mean, x.mean(axis=0))
    expected = np.cov(x, rowvar=False, bias=True).reshape(columns, columns)
    np.testing.assert_allclose(summary.covariance, expected, atol=1e-12)


@settings(deadline=None)
@given(seeds, st.integers(1, 20), st.integers(1, 20), st.integers(1, 4))
def test_merging_is_summarising_the_pooled_rows_in_either_order(seed: int, a: int, b: int, columns: int) -> None:
    first, second = table(seed, a, columns), table(seed + 1, b, columns, offset=5.0)
    pooled = GaussianSummary.from_rows(np.concatenate([first, second]))
    parts = GaussianSummary.from_rows(first), GaussianSummary.from_rows(second)
    assert_same(parts[0].merge(parts[1]), pooled)
    assert_same(parts[1].merge(parts[0]), pooled)


def test_merging_is_associative_and_row_by_row_merging_gives_the_whole() -> None:
    x = table(3, 40, 3)
    single = [GaussianSummary.from_rows(row[None]) for row in x]
    left = single[0]
    for summary in single[1:]:
        left = left.merge(summary)
    assert_same(left, GaussianSummary.from_rows(x))


def test_negative_control_averaging_covariances_is_not_merging() -> None:
    first, second = table(1, 50, 2), table(2, 50, 2, offset=10.0)
    parts = GaussianSummary.from_rows(first), GaussianSummary.from_rows(second)
    averaged = (parts[0].covariance + parts[1].covariance) / 2
    assert not np.allclose(averaged, np.cov(np.concatenate([first, second]), rowvar=False, bias=True), rtol=0.1)


def test_a_large_offset_does_not_cost_precision() -> None:
    x = table(4, 1000, 2)
    far = GaussianSummary.from_rows(x[:300] + 1e8).merge(GaussianSummary.from_rows(x[300:] + 1e8))
    np.testing.assert_allclose(far.covariance, np.cov(x, rowvar=False, bias=True), rtol=1e-6)
    naive = ((x + 1e8).T @ (x + 1e8)) / 1000 - np.outer((x + 1e8).mean(0), (x + 1e8).mean(0))
    assert not np.allclose(naive, np.cov(x, rowvar=False, bias=True), rtol=1e-2), "the naive formula fails here"


@settings(deadline=None)
@given(seeds, st.integers(1, 5), st.floats(0, 1))
def test_log_density_is_scipys(seed: int, columns: int, shrinkage: float) -> None:
    x = table(seed, 40, columns)
    summary = GaussianSummary.from_rows(x)
    sphere = np.eye(columns) * np.trace(summary.covariance) / columns
    covariance = (1 - shrinkage) * summary.covariance + shrinkage * sphere
    probes = table(seed + 1, 7, columns, offset=1.0)
    expected = multivariate_normal(summary.mean, covariance, allow_singular=True).logpdf(probes)
    if np.linalg.cond(covariance) < 1e8:
        np.testing.assert_allclose(summary.log_density(probes, shrinkage), np.atleast_1d(expected), rtol=1e-6)


def test_fewer_rows_than_dimensions_have_a_density_only_by_shrinkage() -> None:
    summary = GaussianSummary.from_rows(table(5, 3, 8))
    assert np.isfinite(summary.log_density(np.zeros((1, 8)), shrinkage=0.05)).all()
    flat = GaussianSummary.from_rows([[0.0, 0.0], [1.0, 1.0]])
    with pytest.raises(InvalidOption, match=r"shrinkage=0.0.*not positive definite.*larger shrinkage"):
        flat.log_density([[0.0, 0.0]], shrinkage=0.0)


def test_equal_rows_have_no_density_at_all() -> None:
    summary = GaussianSummary.from_rows(np.ones((4, 2)))
    with pytest.raises(InvalidOption, match="leave the summary out"):
        summary.log_density([[1.0, 1.0]], shrinkage=1.0)


def test_no_probes_give_no_densities() -> None:
    assert GaussianSummary.from_rows(table(1, 9, 2)).log_density(np.zeros((0, 2))).shape == (0,)


def test_arrays_are_frozen_copies() -> None:
    mean = np.zeros(1)
    summary = GaussianSummary(2, mean, np.eye(1))
    mean[0] = 7
    assert summary.mean[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        summary.covariance[0, 0] = 2


@pytest.mark.parametrize(
    ("count", "mean", "covariance", "why"),
    [
        (0, [0.0], [[1.0]], "at least one row"),
        (1, [[0.0]], [[1.0]], "do not fit"),
        (1, [0.0, 1.0], [[1.0]], "do not fit"),
        (1, [], np.zeros((0, 0)), "do not fit"),
        (1, [math.nan], [[1.0]], "not all finite"),
        (1, [0.0], [[math.inf]], "not all finite"),
        (1, [0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]], "not symmetric"),
        (1, [0.0], [[-1.0]], "negative"),
    ],
)
def test_summaries_that_are_none_are_refused(count: int, mean: object, covariance: object, why: str) -> None:
    with pytest.raises(InvalidOption, match=why):
        GaussianSummary(count, np.array(mean, dtype=float), np.array(covariance, dtype=float))


@pytest.mark.parametrize("rows", [[1.0, 2.0], np.zeros((0, 2)), np.zeros((2, 0)), [[math.nan]], [[math.inf]]])
def test_rows_that_are_no_table_are_refused(rows: object) -> None:
    with pytest.raises(InvalidOption, match="rows"):
        GaussianSummary.from_rows(rows)  # type: ignore[arg-type]


def test_options_and_shapes_that_do_not_fit_are_refused() -> None:
    summary = GaussianSummary.from_rows(table(1, 9, 2))
    for shrinkage in (-0.1, 1.1, math.nan):
        with pytest.raises(InvalidOption, match="between 0 and 1"):
            summary.log_density(np.zeros((1, 2)), shrinkage)
    with pytest.raises(InvalidOption, match="3 columns, and the summary 2 dimensions"):
        summary.log_density(np.zeros((1, 3)))
    with pytest.raises(InvalidOption, match="2 and 3 dimensions"):
        summary.merge(GaussianSummary.from_rows(table(1, 9, 3)))
