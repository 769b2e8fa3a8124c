"""Covariate summaries against numpy on the pooled rows, scipy's densities and groups known beforehand."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import kstest, multivariate_normal, norm

from quiltwork.errors import InvalidOption
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.evidence.gaussian import GaussianSummary
from quiltwork.evidence.groups import k_means

seeds = st.integers(0, 2**32 - 1)


def table(seed: int, rows: int, columns: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=(rows, columns)) @ rng.normal(size=(columns, columns)) + rng.normal(size=columns))


def islands(seed: int = 0, sizes: tuple[int, ...] = (50, 30, 20)) -> tuple[np.ndarray, np.ndarray]:
    """Groups far apart, and the group of each row."""
    rng = np.random.default_rng(seed)
    which = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    return rng.normal(size=(sum(sizes), 2)) + 100.0 * np.array([[1, 0], [-1, 0], [0, 1]])[which], which


def pair(a: float = 0.0, b: float = 5.0) -> CovariateSummary:
    return CovariateSummary(
        (
            GaussianSummary(30, np.array([a]), np.array([[1.0]])),
            GaussianSummary(10, np.array([b]), np.array([[4.0]])),
        )
    )


# Rows in


@settings(deadline=None, max_examples=50)
@given(seeds, st.integers(10, 60), st.integers(1, 4), st.integers(1, 5))
def test_whatever_the_groups_the_whole_is_numpys(seed: int, rows: int, columns: int, components: int) -> None:
    x = table(seed, rows, columns)
    summary = CovariateSummary.from_rows(x, components, seed, minimum_rows=3)
    assert summary.count == rows
    assert summary.n_features == columns
    assert 1 <= len(summary.parts) <= components
    assert min(part.count for part in summary.parts) >= 3
    np.testing.assert_allclose(summary.mean, x.mean(axis=0), atol=1e-10)
    expected = np.cov(x, rowvar=False, bias=True).reshape(columns, columns)
    np.testing.assert_allclose(summary.covariance, expected, atol=1e-10)


@pytest.mark.parametrize("seed", range(5))
def test_groups_far_apart_are_found(seed: int) -> None:
    x, which = islands(seed)
    summary = CovariateSummary.from_rows(x, components=3, seed=seed)
    parts = sorted(summary.parts, key=lambda part: -part.count)
    assert [part.count for part in parts] == [50, 30, 20]
    for number, part in enumerate(parts):
        own = x[which == number]
        np.testing.assert_allclose(part.mean, own.mean(axis=0))
        np.testing.assert_allclose(part.covariance, np.cov(own, rowvar=False, bias=True), atol=1e-12)


def test_the_units_of_a_column_do_not_change_the_groups() -> None:
    x, _ = islands()
    plain = CovariateSummary.from_rows(x, components=3)
    other = CovariateSummary.from_rows(x * [1e6, 1e-3], components=3)
    assert [part.count for part in plain.parts] == [part.count for part in other.parts]


def test_small_groups_dissolve_and_would_else_show_a_row() -> None:
    x, _ = islands(sizes=(60, 39, 1))
    shown = CovariateSummary.from_rows(x, components=3, minimum_rows=1)
    lone = [part for part in shown.parts if part.count == 1]
    assert len(lone) == 1
    assert any(np.array_equal(lone[0].mean, row) for row in x), "negative control: a group of one is its row"
    kept = CovariateSummary.from_rows(x, components=3)
    assert sorted(part.count for part in kept.parts) in ([39, 61], [40, 60])


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(InvalidOption, match=r"a table of 9 rows: a summary of fewer than 10 would show them"):
        CovariateSummary.from_rows(np.zeros((9, 2)))
    assert CovariateSummary.from_rows(np.zeros((9, 2)), minimum_rows=9).count == 9
    with pytest.raises(InvalidOption, match="a table of 0 rows"):
        CovariateSummary.from_rows(np.zeros((0, 2)), minimum_rows=1)
    with pytest.raises(InvalidOption, match="a table of 0 rows"):
        CovariateSummary.from_blocks([])


def test_fewer_distinct_rows_than_groups_give_fewer_groups() -> None:
    x = np.repeat([[0.0, 1.0], [5.0, 1.0]], 20, axis=0)
    summary = CovariateSummary.from_rows(x, components=6, minimum_rows=1)
    assert sorted(float(part.mean[0]) for part in summary.parts) == [0.0, 5.0]
    assert np.isfinite(summary.log_density(x)).all()


def test_the_same_seed_gives_the_same_bytes() -> None:
    x = table(1, 500, 3)

    def made(seed: int) -> bytes:
        return b"".join(array.tobytes() for array in CovariateSummary.from_rows(x, 4, seed).arrays().values())

    assert made(3) == made(3)
    assert len({made(seed) for seed in range(5)}) > 1, "negative control: the seed matters"


def test_k_means_ends_where_every_row_is_nearest_to_the_mean_of_its_group() -> None:
    x = table(2, 300, 2)
    centres = k_means(x, 4, np.random.default_rng(0))
    nearest = ((x[:, None, :] - centres) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_allclose(centres, [x[nearest == j].mean(axis=0) for j in range(len(centres))], atol=0.05)


def test_a_memory_mapped_table_is_read_in_blocks(tmp_path: Path) -> None:
    rows, columns = 200_000, 10
    written = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.float32, shape=(rows, columns))
    written[:] = np.random.default_rng(0).normal(size=(rows, columns)) + 3
    written.flush()
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", mode="r")
    tracemalloc.start()
    one, two = (CovariateSummary.from_rows(mapped, components) for components in (1, 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.6 * 8 * rows * columns, "as float64 the table alone would take 16 MB"
    whole = np.asarray(mapped, dtype=np.float64)
    for summary in (one, two):
        np.testing.assert_allclose(summary.mean, whole.mean(axis=0), rtol=1e-9)
        np.testing.assert_allclose(summary.covariance, np.cov(whole, rowvar=False, bias=True), atol=1e-9)


@given(seeds, st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_any_blocks_give_the_same_summary(seed: int, sizes: list[int]) -> None:
    x = table(seed, sum(sizes) + 2, 2)
    cuts = np.cumsum(sizes)
    whole = CovariateSummary.from_rows(x, minimum_rows=1)
    blockwise = CovariateSummary.from_blocks(np.split(x, cuts), minimum_rows=1)
    np.testing.assert_allclose(blockwise.mean, whole.mean, atol=1e-10)
    np.testing.assert_allclose(blockwise.covariance, whole.covariance, atol=1e-10)


def test_a_number_that_is_none_is_refused_wherever_it_stands() -> None:
    x = np.zeros((40_000, 2))
    x[-1, 1] = math.nan
    for components in (1, 3):
        with pytest.raises(InvalidOption, match="rows: they are not all finite"):
            CovariateSummary.from_rows(x, components)


# Density


@settings(deadline=None, max_examples=50)
@given(seeds, st.integers(1, 4), st.floats(1e-3, 1))
def test_log_density_is_scipys(seed: int, columns: int, shrinkage: float) -> None:
    x = table(seed, 80, columns)
    summary = CovariateSummary.from_rows(x, components=3, seed=seed, minimum_rows=5)
    variances = np.diag(x.var(axis=0))
    logs = [
        math.log(part.count / 80)
        + multivariate_normal(part.mean, (1 - shrinkage) * part.covariance + shrinkage * variances).logpdf(x)
        for part in summary.parts
    ]
    np.testing.assert_allclose(summary.log_density(x, shrinkage), logsumexp(logs, axis=0), rtol=1e-6, atol=1e-8)


def test_the_density_integrates_to_one() -> None:
    summary = pair()
    total, _ = quad(lambda x: math.exp(float(summary.log_density([[x]])[0])), -30, 40, limit=200)
    assert total == pytest.approx(1, abs=1e-8)


@settings(deadline=None, max_examples=30)
@given(seeds, st.floats(-6, 6), st.floats(-6, 6))
def test_other_units_change_all_densities_by_one_factor(seed: int, one: float, other: float) -> None:
    units = 10.0 ** np.array([one, other])
    x, probes = table(seed, 50, 2), table(seed + 1, 20, 2)
    plain = CovariateSummary.from_rows(x).log_density(probes)
    scaled = CovariateSummary.from_rows(x * units).log_density(probes * units)
    np.testing.assert_allclose(scaled + np.log(units).sum(), plain, rtol=1e-6, atol=1e-6)


def test_negative_control_a_sphere_depends_on_the_units() -> None:
    x, units = table(0, 50, 2), np.array([1e4, 1.0])
    plain = GaussianSummary.from_rows(x).log_density(x)
    scaled = GaussianSummary.from_rows(x * units).log_density(x * units) + np.log(units).sum()
    assert not np.allclose(scaled, plain, rtol=1e-2)


def test_a_constant_column_is_a_spike_unless_a_scale_is_shared() -> None:
    x = table(0, 50, 2) * [1.0, 0.0] + [0.0, 7.0]
    summary = CovariateSummary.from_rows(x)
    off = x + np.array([0.0, 1.0])
    alone, shared = summary.log_density(off), summary.log_density(off, scale=np.array([1.0, 10.0]))
    assert np.isfinite(alone).all()
    assert alone.max() < -1e6
    # within the floor sqrt(a) scale = 0.316 the step of 1 is about three standard deviations
    expected = norm.logpdf(1.0, scale=10 * math.sqrt(1e-3)) + norm.logpdf(
        off[:, 0], x[:, 0].mean(), np.sqrt((1 - 1e-3) * x[:, 0].var() + 1e-3)
    )
    np.testing.assert_allclose(shared, expected, rtol=1e-9)


@pytest.mark.parametrize("value", [0.0, 1e-200, 1e12])
def test_equal_rows_have_a_density(value: float) -> None:
    summary = CovariateSummary.from_rows(np.full((20, 2), value))
    assert np.isfinite(summary.log_density(np.full((3, 2), value))).all()


def test_a_column_far_from_zero_keeps_its_own_width() -> None:
    x = table(0, 50, 1)
    near, far = CovariateSummary.from_rows(x), CovariateSummary.from_rows(x + 1e9)
    np.testing.assert_allclose(far.log_density(x + 1e9), near.log_density(x), rtol=1e-4)


def test_collinear_columns_and_few_rows_have_a_density() -> None:
    x = np.outer(np.arange(12.0), np.ones(30))
    summary = CovariateSummary.from_rows(x)
    assert np.isfinite(summary.log_density(x)).all()


def test_no_probes_give_no_densities() -> None:
    assert pair().log_density(np.zeros((0, 1))).shape == (0,)


# Samples


def test_samples_follow_the_mixture() -> None:
    summary = pair()
    drawn = summary.sample(20_000, np.random.default_rng(0))[:, 0]

    def cdf(x: np.ndarray) -> np.ndarray:
        return np.asarray(0.75 * norm.cdf(x) + 0.25 * norm.cdf(x, 5.0, 2.0))

    assert kstest(drawn, cdf).pvalue > 1e-3
    assert kstest(drawn, norm(1.25, drawn.std()).cdf).pvalue < 1e-6, "negative control: one Gaussian is another law"


def test_samples_have_the_covariance_of_the_rows() -> None:
    x = table(4, 400, 3)
    drawn = CovariateSummary.from_rows(x, components=2).sample(200_000, np.random.default_rng(1))
    np.testing.assert_allclose(drawn.mean(axis=0), x.mean(axis=0), atol=0.03)
    np.testing.assert_allclose(np.cov(drawn, rowvar=False), np.cov(x, rowvar=False, bias=True), rtol=0.05, atol=0.05)


def test_a_constant_column_is_constant_in_samples() -> None:
    x = table(0, 50, 2) * [1.0, 0.0] + [0.0, 7.0]
    drawn = CovariateSummary.from_rows(x).sample(100, np.random.default_rng(0))
    assert (drawn[:, 1] == 7.0).all()
    assert drawn[:, 0].std() > 0


def test_a_sample_depends_on_its_generator_alone() -> None:
    draws = [pair().sample(5, np.random.default_rng(seed)).tobytes() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]
    assert pair().sample(0, np.random.default_rng(0)).shape == (0, 1)


# Parts


def test_merging_keeps_the_groups_of_both() -> None:
    merged = pair(0.0).merge(pair(100.0))
    assert [part.count for part in merged.parts] == [30, 10, 30, 10]
    assert merged.mean[0] == pytest.approx((1.25 + (75 + 1.25)) / 2)
    one, other = pair(0.0).log_density([[3.0]]), pair(100.0).log_density([[3.0]], scale=np.ones(1))
    shared = merged.log_density([[3.0]], scale=np.ones(1))
    assert shared[0] == pytest.approx(
        float(logsumexp([pair(0.0).log_density([[3.0]], scale=np.ones(1))[0], other[0]])) - math.log(2)
    )
    assert one.shape == (1,)


def test_arrays_and_back() -> None:
    summary = CovariateSummary.from_rows(islands()[0], components=3)
    again = CovariateSummary.from_arrays(*summary.arrays().values())
    assert {name: array.tobytes() for name, array in again.arrays().items()} == {
        name: array.tobytes() for name, array in summary.arrays().items()
    }
    noisy = CovariateSummary.from_arrays(np.array([0.2, 7.6]), np.zeros((2, 1)), np.ones((2, 1, 1)))
    assert [part.count for part in noisy.parts] == [1, 8]


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((), "it describes no rows"),
        ((GaussianSummary(1, np.zeros(1), np.eye(1)), GaussianSummary(1, np.zeros(2), np.eye(2))), "different dim"),
        ((GaussianSummary(1, np.full(1, 1e300), np.eye(1)),), "a number of 1e[+]100 or more"),
        ((GaussianSummary(1, np.zeros(1), np.full((1, 1), 1e300)),), "a number of 1e[+]100 or more"),
        ((GaussianSummary(1, np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]])),), "negative eigenvalue"),
        ((GaussianSummary(1, np.zeros(2), np.array([[0.0, 1.0], [1.0, 1.0]])),), "negative eigenvalue"),
        ((GaussianSummary(1, np.zeros(2), np.array([[1e12, 2.0], [2.0, 1e-12]])),), "negative eigenvalue"),
    ],
)
def test_what_no_rows_have_is_refused(parts: tuple[GaussianSummary, ...], why: str) -> None:
    with pytest.raises(InvalidOption, match=why):
        CovariateSummary(parts)


@pytest.mark.parametrize("name", ["components", "minimum_rows"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", None])
def test_options_outside_their_domain_are_refused(name: str, value: object) -> None:
    with pytest.raises(InvalidOption, match=f"{name}="):
        CovariateSummary.from_rows(np.zeros((20, 1)), **{name: value})  # type: ignore[arg-type]


def test_what_does_not_fit_the_density_is_refused() -> None:
    summary = pair()
    with pytest.raises(InvalidOption, match="2 columns, and the summary 1"):
        summary.log_density(np.zeros((3, 2)))
    for shrinkage in (0.0, -1.0, 1.1, math.nan):
        with pytest.raises(InvalidOption, match="shrinkage="):
            summary.log_density(np.zeros((1, 1)), shrinkage)
    for scale in (np.zeros(1), np.ones(2), np.array([math.inf]), -np.ones(1)):
        with pytest.raises(InvalidOption, match="not one positive number a column"):
            summary.log_density(np.zeros((1, 1)), scale=scale)
    with pytest.raises(InvalidOption, match="shape"):
        CovariateSummary.from_rows(np.zeros(20))
