"""The regressions against statsmodels, scikit-learn, lstsq and finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.regression import (
    _poisson_local,
    _softmax_local,
    newton,
    poisson_regression,
    softmax_hessian,
    softmax_regression,
    weighted_least_squares,
)
from quiltwork.models.mixture.standard import Standard


def table(n: int = 300, d: int = 3, seed: int = 0) -> tuple[np.ndarray, np.random.Generator]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)) * [1.0, 20.0, 0.05][:d] + [0.0, 300.0, -1.0][:d], rng


def soft_loss(b: np.ndarray, x: np.ndarray, targets: np.ndarray, weights: np.ndarray, ridge: float) -> float:
    b = b.reshape(targets.shape[1], -1)
    log_p = log_softmax(b[:, 0] + x @ b[:, 1:].T, axis=1)
    return float(-(weights[:, None] * targets * log_p).sum() + ridge / 2 * (b[:, 1:] ** 2).sum())


@pytest.mark.parametrize("ridge", [0.0, 0.7])
def test_softmax_reaches_the_optimum_of_a_general_minimiser(ridge: float) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 2))
    targets, weights = rng.dirichlet(np.ones(3), 200) * rng.uniform(0, 2, (200, 1)), rng.uniform(0, 3, 200)
    found = softmax_regression(x, targets, weights, ridge=ridge, tolerance=1e-14)
    oracle = minimize(soft_loss, np.zeros(9), args=(x, targets, weights, ridge), tol=1e-12)
    assert soft_loss(found.ravel(), x, targets, weights, ridge) <= oracle.fun + 1e-8
    other = oracle.x.reshape(3, 3)
    np.testing.assert_allclose(found, other - other.mean(axis=0), atol=2e-4)


def test_softmax_equals_logistic_regression_on_labels() -> None:
    x, rng = table()
    labels = (x[:, 0] + 0.05 * (x[:, 1] - 300) + rng.logistic(size=len(x)) > 0).astype(int)
    found = softmax_regression(x, np.eye(2)[labels], tolerance=1e-14)
    oracle = sm.Logit(labels, sm.add_constant(x)).fit(disp=0, tol=1e-12).params
    np.testing.assert_allclose(found[1] - found[0], oracle, rtol=1e-6)


def test_softmax_ridge_is_that_of_scikit_learn_in_raw_units() -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((150, 3)) * [1.0, 3.0, 0.3]
    labels = rng.integers(3, size=150)
    oracle = LogisticRegression(C=1 / 2.5, tol=1e-10, max_iter=10_000).fit(x, labels)
    found = softmax_regression(x, np.eye(3)[labels], ridge=2.5, tolerance=1e-14)
    np.testing.assert_allclose(found[:, 1:], oracle.coef_, atol=1e-5)


def test_a_targets_mass_is_a_weight() -> None:
    x, rng = table()
    targets, weights = rng.dirichlet(np.ones(3), len(x)), rng.uniform(0.1, 2, len(x))
    np.testing.assert_allclose(
        softmax_regression(x, targets * weights[:, None]), softmax_regression(x, targets, weights), rtol=1e-7, atol=1e-9
    )


@given(st.integers(0, 10_000), st.floats(-8, 8))
def test_softmax_never_ends_above_its_start(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    x, targets, weights = rng.standard_normal((30, 2)), rng.dirichlet(np.full(3, 0.2), 30), rng.uniform(0, 1, 30)
    start = np.exp(size) * rng.standard_normal((3, 3))
    found = softmax_regression(x, targets, weights, start=start, ridge=0.1, max_iterations=3)
    centred = start - start.mean(axis=0)
    before, after = (soft_loss(b.ravel(), x, targets, weights, 0.1) for b in (centred, found))
    assert np.isfinite(found).all()
    assert after <= before * (1 + 1e-12) + 1e-9


def test_separated_classes_end_finite() -> None:
    x = np.array([[-1.0], [-2.0], [1.0], [2.0]])
    found = softmax_regression(x, np.eye(2)[[0, 0, 1, 1]])
    assert np.isfinite(found).all()
    assert (np.sign((found[1] - found[0])[1]),) == (1.0,)


@pytest.mark.parametrize("weighted", [False, True])
def test_poisson_equals_the_glm_of_statsmodels(weighted: bool) -> None:
    x, rng = table()
    y = rng.poisson(np.exp(0.5 + 0.4 * x[:, 0] + 0.02 * (x[:, 1] - 300)))
    w = rng.integers(0, 4, len(x)).astype(float) if weighted else np.ones(len(x))
    oracle = sm.GLM(y, sm.add_constant(x), family=sm.families.Poisson(), freq_weights=w).fit(tol=1e-13).params
    np.testing.assert_allclose(poisson_regression(x, y * 1.0, w, tolerance=1e-14), oracle, rtol=1e-6, atol=1e-8)


def test_poisson_passes_over_a_hopeless_start() -> None:
    x, rng = table(d=1)
    y = rng.poisson(np.exp(0.5 + 0.4 * x[:, 0])) * 1.0
    for start in ([-3.0, 200.0], [0.0, 2e5], [0.4, 0.5]):
        found = poisson_regression(x, y, start=np.array(start), tolerance=1e-12)
        np.testing.assert_allclose(found, poisson_regression(x, y, tolerance=1e-12), atol=1e-5)


def test_gradients_and_hessians_are_those_of_finite_differences() -> None:
    x, rng = table(n=40, d=2)
    rows = Standard.of(x, rng.uniform(0, 2, 40))
    targets, counts = rng.dirichlet(np.ones(3), 40), rng.poisson(2.0, 40) * 1.0
    penalty = np.array([0.0, 0.4, 0.4])

    def soft(b: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        return _softmax_local(rows, targets, rows.weights, b.reshape(3, 3), penalty)

    def count(b: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        return _poisson_local(rows, counts, rows.weights, b, penalty)

    for near, size in ((soft, 9), (count, 3)):
        b = 0.3 * rng.standard_normal(size)
        if size == 9:
            b = (b.reshape(3, 3) - b.reshape(3, 3).mean(axis=0)).ravel()
        _, gradient, hessian = near(b)
        steps = 1e-5 * np.eye(size)
        slope = [(near(b + h)[0] - near(b - h)[0]) / 2e-5 for h in steps]
        np.testing.assert_allclose(gradient, slope, rtol=1e-5, atol=1e-6)
        curve = np.array([(near(b + h)[1] - near(b - h)[1]) / 2e-5 for h in steps])
        if size == 9:
            # along equal shifts of all classes the Hessian carries a term that makes its rank full; look across them
            across = np.eye(9) - np.kron(np.full((3, 3), 1 / 3), np.eye(3))
            hessian, curve = across @ hessian @ across, across @ curve @ across
        np.testing.assert_allclose(hessian, curve, rtol=1e-5, atol=1e-6)


def test_a_wrong_hessian_is_noticed_by_that_check() -> None:
    edges = np.array([[[2.0]]])
    right = softmax_hessian(edges, 2, np.zeros(1))
    across = np.array([1.0, -1.0])
    assert across @ right @ across == pytest.approx(8.0)
    assert across @ (right * [[1, 0], [0, 1]]) @ across != pytest.approx(8.0)


def test_least_squares_equals_lstsq() -> None:
    x, rng = table()
    wide, w, y = sm.add_constant(x), rng.uniform(0, 2, len(x)), rng.standard_normal((len(x), 2))
    found = weighted_least_squares((wide.T * w) @ wide, (wide.T * w) @ y)
    root = np.sqrt(w)[:, None]
    np.testing.assert_allclose(found.T, np.linalg.lstsq(wide * root, y * root, rcond=None)[0], rtol=1e-5, atol=1e-8)


def test_least_squares_ridge_spares_the_intercept() -> None:
    gram, cross = np.diag([4.0, 4.0]), np.array([[8.0], [8.0]])
    np.testing.assert_allclose(weighted_least_squares(gram, cross, 4.0), [[2.0, 1.0]])


def test_least_squares_of_collinear_columns_predicts_as_well() -> None:
    rng = np.random.default_rng(0)
    one = rng.standard_normal(50)
    wide = np.column_stack([np.ones(50), one, 2 * one, np.zeros(50)])
    y = 3 + 5 * one
    b = weighted_least_squares(wide.T @ wide, (wide.T @ y)[:, None])
    assert np.isfinite(b).all()
    np.testing.assert_allclose(wide @ b[0], y, atol=1e-8)


def test_newton_halves_steps_that_overshoot() -> None:
    visited = []

    def near(b: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        visited.append(float(b[0]))
        return float(np.log(np.cosh(b[0]))), np.tanh(b), np.array([[1 / np.cosh(b[0]) ** 2]])

    end = newton(near, np.array([3.0]), 1e-14, 100)
    assert abs(end[0]) < 1e-6
    assert max(abs(b) for b in visited) > 3.0  # the full step was tried, and refused


@pytest.mark.parametrize(
    ("targets", "weights"), [(np.ones((3, 2)), None), (np.ones((4, 2)), np.zeros(4)), (np.ones((4, 2)), np.ones(3))]
)
def test_misfits_are_refused(targets: np.ndarray, weights: np.ndarray | None) -> None:
    with pytest.raises(InvalidOption):
        softmax_regression(np.ones((4, 1)), targets, weights)
