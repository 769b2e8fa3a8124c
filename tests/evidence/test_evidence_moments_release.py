"""What leaves under noise: priced as asked, right where noise is small, possible where it is large."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.errors import InvalidOption
from quiltwork.evidence.clipped import ClippedGaussian
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.evidence.moments_release import release_covariates, release_precision
from quiltwork.privacy.accountant import calibrate_gaussian, price
from quiltwork.privacy.events import GaussianEvent

CENTRE, SCALE = np.array([5.0, -2.0]), np.array([2.0, 0.5])


def rule(epsilon: float = 1.0, **changes: Any) -> ClippedGaussian:
    return ClippedGaussian(**{"centre": CENTRE, "scale": SCALE, "epsilon": epsilon, "delta": 1e-6, **changes})


def table(rows: int, seed: int = 0) -> np.ndarray:
    z = np.random.default_rng(seed).normal(size=(rows, 2)) @ [[0.8, 0.5], [0.0, 0.6]]
    return np.asarray(CENTRE + SCALE * z)


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
def test_covariates_cost_what_was_asked(epsilon: float) -> None:
    _, events = release_covariates(table(50), rule(epsilon), rng=rng())
    assert events == (
        GaussianEvent(released="covariates", unit="row", sigma=calibrate_gaussian(epsilon, 1e-6, 2.0), sensitivity=2.0),
    )
    assert price(events, delta=1e-6) == pytest.approx(epsilon, abs=2e-3)


def test_where_noise_is_small_the_summary_is_that_of_the_rows() -> None:
    x = table(50_000)
    noisy, _ = release_covariates(x, rule(epsilon=8.0, clip=8.0), rng=rng())
    exact = CovariateSummary.from_rows(x)
    assert noisy.count == pytest.approx(50_000, abs=20)
    np.testing.assert_allclose((noisy.mean - exact.mean) / SCALE, 0, atol=3e-3)
    np.testing.assert_allclose(
        noisy.covariance / np.outer(SCALE, SCALE), exact.covariance / np.outer(SCALE, SCALE), atol=0.02
    )


def test_negative_control_units_that_are_wrong_cost_accuracy() -> None:
    x = table(50_000)
    noisy, _ = release_covariates(x, rule(epsilon=8.0, scale=SCALE / 10), rng=rng())
    assert noisy.covariance[0, 0] < 0.5 * x[:, 0].var()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 30), st.integers(0, 2**32 - 1), st.sampled_from([0.01, 1.0]))
def test_any_release_could_be_a_summary_of_rows(rows: int, seed: int, epsilon: float) -> None:
    x = table(rows, seed) if rows else np.zeros((0, 2))
    summary, _ = release_covariates(x, rule(epsilon), rng=rng(seed))
    assert summary.count >= 1
    assert np.linalg.eigvalsh(summary.covariance / np.outer(SCALE, SCALE)).min() > 0
    reach = rule().reach
    assert np.linalg.norm((summary.mean - CENTRE) / reach) <= 1 + 1e-12
    assert np.isfinite(summary.log_density(table(5))).all()
    assert CovariateSummary.from_arrays(*summary.arrays().values()).count == summary.count


def test_noise_differs_from_release_to_release_unless_a_test_says_otherwise() -> None:
    x = table(100)
    means = [release_covariates(x, rule(), rng=given)[0].mean for given in (None, None, rng(), rng())]
    assert not np.array_equal(means[0], means[1])
    assert np.array_equal(means[2], means[3])


def test_a_memory_mapped_table_is_taken(tmp_path: Any) -> None:
    x = table(10_000).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    mapped = np.lib.format.open_memmap(tmp_path / "x.npy", mode="r")
    one, other = (release_covariates(rows, rule(), rng=rng())[0] for rows in (x, mapped))
    assert one.mean.tobytes() == other.mean.tobytes()


# Precision


def gates(rows: int, experts: int, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.dirichlet(np.ones(experts), size=rows), draw.dirichlet(np.ones(experts), size=rows)


@pytest.mark.parametrize("experts", [1, 2, 3])
def test_where_noise_is_small_precision_is_that_of_the_rows(experts: int) -> None:
    x = table(60_000)
    tau, pi = gates(len(x), experts)
    noisy, events = release_precision(x, tau, pi, rule(epsilon=20.0, clip=8.0), rng=rng())
    wide = np.concatenate((np.ones((len(x), 1)), x), axis=1)
    units = np.concatenate(([1.0], np.abs(CENTRE) + SCALE))
    for k in range(experts):
        expected = (wide * tau[:, [k]]).T @ wide
        np.testing.assert_allclose(
            noisy.expert_grams[k] / np.outer(units, units), expected / np.outer(units, units), rtol=0.02, atol=20
        )
    assert events[0].sensitivity == (2.0 if experts == 1 else pytest.approx(math.sqrt(5)))
    assert price(events, delta=1e-6) == pytest.approx(20.0, rel=1e-2)
    if experts == 1:
        assert noisy.gate_hessian is None
        return
    due = np.zeros(((experts - 1) * 3,) * 2)
    for a in range(experts - 1):
        for b in range(experts - 1):
            weight = pi[:, a] * (a == b) - pi[:, a] * pi[:, b]
            due[3 * a : 3 * a + 3, 3 * b : 3 * b + 3] = (wide * weight[:, None]).T @ wide
    units = np.tile(units, experts - 1)
    assert noisy.gate_hessian is not None
    np.testing.assert_allclose(
        noisy.gate_hessian / np.outer(units, units), due / np.outer(units, units), rtol=0.02, atol=20
    )


def test_precision_has_no_negative_eigenvalue_however_loud_the_noise() -> None:
    for seed in range(10):
        x = table(5, seed)
        noisy, _ = release_precision(x, *gates(5, 3, seed), rule(0.05), rng=rng(seed))
        assert noisy.gate_hessian is not None
        for matrix in (*noisy.expert_grams, noisy.gate_hessian):
            assert np.array_equal(matrix, matrix.T) or np.allclose(matrix, matrix.T, rtol=1e-12)
            assert np.linalg.eigvalsh(matrix).min() >= -1e-9 * np.abs(matrix).max()


# Refusals


def test_what_does_not_fit_the_rule_is_refused() -> None:
    with pytest.raises(InvalidOption, match="3 columns, and the rule 2"):
        release_covariates(np.zeros((5, 3)), rule())
    with pytest.raises(InvalidOption, match="not all finite"):
        release_covariates(np.array([[0.0, math.nan]]), rule())
    with pytest.raises(InvalidOption, match="shape"):
        release_covariates(np.zeros(5), rule())
    for tau, pi in ((np.ones((4, 2)), np.ones((4, 2))), (np.ones((5, 2)), np.ones((5, 3))), (np.ones(5), np.ones(5))):
        with pytest.raises(InvalidOption, match="responsibilities and gate"):
            release_precision(table(5), tau, pi, rule())
