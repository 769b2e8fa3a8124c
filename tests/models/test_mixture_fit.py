"""Fits with known answers: one expert is a classical regression, separated experts are found again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from mixture_tables import aligned, density_by_hand, rows_of, separated
from sklearn.linear_model import LogisticRegression

from quiltwork.models.mixture import fit as fitting
from quiltwork.models.mixture import standard, starts
from quiltwork.models.mixture.classifier import MixtureOfExpertsClassifier
from quiltwork.models.mixture.regressor import MixtureOfExpertsRegressor


def estimator(family: str, n_experts: Any = 2, **how: Any) -> Any:
    how = {"random_state": 0} | how
    if family == "multinomial":
        return MixtureOfExpertsClassifier(n_experts, **how)
    return MixtureOfExpertsRegressor(n_experts, experts=family, **how)  # type: ignore[arg-type]


def fitted(family: str, n: int = 800, weights: Any = None, **how: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    x, y = rows_of(separated(family), n)
    return estimator(family, **how).fit(x, y if y.ndim == 1 else y[:, 0], weights), x, y


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("outputs", [1, 3])
def test_one_gaussian_expert_is_ordinary_least_squares(outputs: int, standardise: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 3)) * [1, 100, 0.01] + [0, 50, 1]
    y = x @ rng.standard_normal((3, outputs)) + rng.standard_normal((200, outputs))
    model = MixtureOfExpertsRegressor(1, standardise=standardise).fit(x, y)
    oracle, rss, *_ = np.linalg.lstsq(sm.add_constant(x), y, rcond=None)
    np.testing.assert_allclose(model.mixture_.experts.coefficients[0], oracle.T, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(model.mixture_.experts.variances[0], rss / 200, rtol=1e-8)
    by_hand = sum(sm.OLS(y[:, j], sm.add_constant(x)).fit().llf for j in range(outputs))
    assert model.log_likelihood_ == pytest.approx(by_hand, rel=1e-10)


def test_one_weighted_expert_is_weighted_least_squares() -> None:
    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((100, 2)), rng.uniform(0, 3, 100)
    y = x[:, 0] + rng.standard_normal(100)
    model = MixtureOfExpertsRegressor(1).fit(x, y, w)
    oracle = sm.WLS(y, sm.add_constant(x), weights=w).fit().params
    np.testing.assert_allclose(model.mixture_.experts.coefficients[0, 0], oracle, rtol=1e-8)


def test_one_multinomial_expert_is_logistic_regression() -> None:
    x, y = rows_of(separated("multinomial"), 500)
    x = (x - x.mean(axis=0)) / x.std(axis=0)
    model = MixtureOfExpertsClassifier(1, ridge_experts=2.0, tol=1e-12).fit(x, y)
    oracle = LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000).fit(x, y)
    np.testing.assert_allclose(model.predict_proba(x), oracle.predict_proba(x), atol=1e-5)


def test_one_poisson_expert_is_poisson_regression() -> None:
    x, y = rows_of(separated("poisson"), 500)
    model = MixtureOfExpertsRegressor(1, experts="poisson", tol=1e-12).fit(x, y[:, 0])
    oracle = sm.GLM(y[:, 0], sm.add_constant(x), family=sm.families.Poisson()).fit(tol=1e-12)
    np.testing.assert_allclose(model.mixture_.experts.coefficients[0, 0], oracle.params, rtol=1e-5)
    assert model.log_likelihood_ == pytest.approx(oracle.llf, rel=1e-9)


@pytest.mark.parametrize("gate_step", ["newton", "bohning"])
@pytest.mark.parametrize(
    ("family", "n", "near"), [("gaussian", 4000, 0.25), ("poisson", 20000, 0.25), ("multinomial", 20000, 0.6)]
)
def test_separated_experts_are_found_again(family: str, n: int, near: float, gate_step: str) -> None:
    truth = separated(family)
    model, x, y = fitted(family, n, gate_step=gate_step)
    found = aligned(model.mixture_, truth)
    assert model.converged_
    assert model.log_likelihood_ >= truth.log_density(x, y).sum()
    coefficients = truth.experts.coefficients
    if family == "multinomial":
        coefficients = coefficients - coefficients.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(found.experts.coefficients, coefficients, atol=near)
    np.testing.assert_allclose(found.gate.coefficients, truth.gate.anchored().coefficients, atol=2 * near)
    if family == "gaussian":
        np.testing.assert_allclose(found.experts.variances, truth.experts.variances, rtol=0.1)


def test_several_outputs_share_their_experts() -> None:
    truth = separated(outputs=2)
    x, y = rows_of(truth, 3000)
    model = MixtureOfExpertsRegressor(2, random_state=0).fit(x, y)
    found = aligned(model.mixture_, truth)
    np.testing.assert_allclose(found.experts.coefficients, truth.experts.coefficients, atol=0.15)
    assert model.predict(x).shape == (3000, 2)


@pytest.mark.parametrize("family", ["gaussian", "poisson", "multinomial"])
def test_the_reported_likelihood_is_that_of_the_mixture_in_raw_units(family: str) -> None:
    rng = np.random.default_rng(3)
    weights = rng.uniform(0, 2, 300)
    model, x, y = fitted(family, 300, weights, ridge_experts=0.1)
    assert model.log_likelihood_ == pytest.approx(weights @ density_by_hand(model.mixture_, x, y), rel=1e-9)
    np.testing.assert_allclose(
        model.log_density(x, y if y.ndim == 1 else y[:, 0]), density_by_hand(model.mixture_, x, y)
    )
    assert (np.diff(model.log_likelihood_path_) >= 0).all()
    assert len(model.log_likelihood_path_) == model.n_iter_ + 1


@pytest.mark.parametrize("family", ["gaussian", "poisson", "multinomial"])
def test_whole_weights_are_repeated_rows_and_order_is_nothing(family: str) -> None:
    rng = np.random.default_rng(5)
    x, y = rows_of(separated(family), 300)
    y = y if y.ndim == 1 else y[:, 0]
    counts = rng.integers(0, 4, 300)
    weighted = estimator(family, ridge_experts=0.1).fit(x, y, counts)
    order = rng.permutation(int(counts.sum()))
    repeated = estimator(family, ridge_experts=0.1).fit(x.repeat(counts, axis=0)[order], y.repeat(counts)[order])
    a, b = weighted.mixture_, repeated.mixture_
    np.testing.assert_allclose(a.experts.coefficients, b.experts.coefficients, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(a.gate.coefficients, b.gate.coefficients, rtol=1e-5, atol=1e-6)


def test_same_input_same_bytes() -> None:
    one, two = (fitted("gaussian")[0].mixture_ for _ in range(2))
    assert one.gate.coefficients.tobytes() == two.gate.coefficients.tobytes()
    assert one.experts.coefficients.tobytes() == two.experts.coefficients.tobytes()


def test_a_memory_map_fits_as_its_array_and_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standard, "KEPT_PRODUCTS", 0)
    x, y = rows_of(separated(), 600)
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    seen: list[Any] = []
    real = fitting.Standard.of
    monkeypatch.setattr(
        fitting.Standard,
        "of",
        classmethod(lambda cls, x, *a, **k: seen.append(x) or real(x, *a, **k)),  # type: ignore[func-returns-value]
    )
    there = MixtureOfExpertsRegressor(random_state=0).fit(mapped, y[:, 0])
    assert seen[0].dtype == np.float32
    assert np.shares_memory(seen[0], mapped)
    here = MixtureOfExpertsRegressor(random_state=0).fit(x.astype(np.float32).astype(np.float64), y[:, 0])
    np.testing.assert_allclose(there.mixture_.gate.coefficients, here.mixture_.gate.coefficients, rtol=1e-6, atol=1e-9)


def test_starts_on_some_rows_arrive_at_the_same_fit() -> None:
    part, *_ = fitted("gaussian", 4000, start_rows=500)
    whole, *_ = fitted("gaussian", 4000)
    assert part.log_likelihood_ == pytest.approx(whole.log_likelihood_, abs=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_overlapping_experts_are_told_apart_by_their_responses(seed: int) -> None:
    """Two parallel lines under an even gate: cells of covariates alone would see one."""
    rng = np.random.default_rng(seed)
    x, side = rng.standard_normal((500, 1)), rng.integers(2, size=500) * 2 - 1
    model = MixtureOfExpertsRegressor(2, random_state=seed).fit(x, x[:, 0] + side + 0.3 * rng.standard_normal(500))
    np.testing.assert_allclose(np.sort(model.mixture_.experts.coefficients[:, 0, 0]), [-1, 1], atol=0.15)


def test_cells_of_covariates_alone_would_miss_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts, "STRETCHES", (0.0,))
    with pytest.raises(AssertionError):
        test_overlapping_experts_are_told_apart_by_their_responses(0)


def test_bic_finds_the_number_of_experts() -> None:
    x, y = rows_of(separated(), 1500)
    model = MixtureOfExpertsRegressor("bic", max_experts=4, random_state=0).fit(x, y[:, 0])
    assert [row.n_experts for row in model.selection_] == [1, 2, 3, 4]
    assert model.mixture_.n_experts == 2
    row = model.selection_[1]
    # gate 3, coefficients 2 x 3, variances 2
    assert row.n_parameters == 11
    assert row.bic == pytest.approx(-2 * row.log_likelihood + 11 * np.log(1500))
    assert model.bic(x, y[:, 0]) == pytest.approx(row.bic)
    noise = np.random.default_rng(0).standard_normal(1500)
    assert MixtureOfExpertsRegressor("bic", max_experts=3).fit(x, x[:, 0] + noise).mixture_.n_experts == 1


def test_bic_counts_what_classes_identify() -> None:
    model, x, y = fitted("multinomial", 400)
    free = 3 + 2 * 2 * 3
    assert model.bic(x, y) == pytest.approx(-2 * model.log_density(x, y).sum() + free * np.log(400))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@settings(max_examples=40)
@given(st.integers(0, 10**6), st.sampled_from(["gaussian", "poisson", "multinomial"]), st.integers(1, 4))
def test_degenerate_tables_never_give_a_model_that_is_not_finite(seed: int, family: str, k: int) -> None:
    rng = np.random.default_rng(seed)
    n, d = int(rng.integers(max(k, 2), 12)), int(rng.integers(1, 6))
    x = rng.integers(-1, 2, (n, d)) * 10.0 ** rng.integers(-6, 7, d)
    x[:, rng.integers(d)] = x[:, 0] * rng.integers(0, 3)
    y = rng.integers(0, 3, n)
    y[:2] = [0, 1]
    weights = rng.integers(0, 3, n) * 1.0
    weights[: max(k, 2)] = 1.0
    model = estimator(family, k, max_iter=30, n_init=2).fit(x, y, weights)
    arrays = [model.mixture_.gate.coefficients, *model.mixture_.experts.parameters().values()]
    assert all(np.isfinite(array).all() for array in arrays)
    assert np.isfinite(model.log_likelihood_)
    assert np.isfinite(model.mixture_.mean(x)).all()
    assert (np.diff(model.log_likelihood_path_) >= -1e-9 * abs(model.log_likelihood_)).all()


def test_a_response_without_noise_meets_the_floor_of_variances() -> None:
    x = np.linspace(-1, 1, 60)[:, None]
    model = MixtureOfExpertsRegressor(2, random_state=0, min_variance=1e-4).fit(x, np.abs(x[:, 0]))
    np.testing.assert_allclose(model.mixture_.experts.variances, 1e-4 * np.abs(x).var(), rtol=1e-6)
    constant = MixtureOfExpertsRegressor(2, random_state=0).fit(x, np.full(60, 7.0))
    np.testing.assert_allclose(constant.predict(x), 7.0)


def test_collinear_and_constant_columns_do_not_change_predictions() -> None:
    x, y = rows_of(separated(), 500)
    wide = np.column_stack([x, x[:, 0] * 2, np.full(500, 1e6)])
    plain = MixtureOfExpertsRegressor(2, random_state=0, ridge_gate=0.0).fit(x, y[:, 0])
    model = MixtureOfExpertsRegressor(2, random_state=0, ridge_gate=0.0).fit(wide, y[:, 0])
    np.testing.assert_allclose(model.predict(wide), plain.predict(x), atol=0.02)
