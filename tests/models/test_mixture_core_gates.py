"""Gates against scikit-learn's multinomial logistic regression, scipy and sums written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression

from quiltwork.models.mixture.gates import ConstantWeights, PooledGate, SoftmaxGate

seeds = st.integers(0, 2**32 - 1)


def test_softmax_gate_is_scikit_learns_softmax() -> None:
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 3)), rng.integers(0, 4, size=60)
    fitted = LogisticRegression().fit(x, labels)
    gate = SoftmaxGate(np.column_stack([fitted.intercept_, fitted.coef_]))
    np.testing.assert_allclose(np.exp(gate.log_probabilities(x)), fitted.predict_proba(x), atol=1e-12)
    swapped = SoftmaxGate(np.column_stack([fitted.coef_, fitted.intercept_]))  # the intercept last
    assert not np.allclose(np.exp(swapped.log_probabilities(x)), fitted.predict_proba(x), atol=1e-3)


@settings(deadline=None)
@given(seeds, st.integers(1, 5), st.integers(0, 4))
def test_rows_are_normalised_and_a_common_vector_changes_nothing(seed: int, k: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    x, a = rng.normal(size=(9, d)) * 20, rng.normal(size=(k, 1 + d)) * 20
    logs = SoftmaxGate(a).log_probabilities(x)
    assert logs.shape == (9, k)
    np.testing.assert_allclose(logsumexp(logs, axis=1), 0, atol=1e-12)
    shifted = SoftmaxGate(a + rng.normal(size=1 + d))
    np.testing.assert_allclose(shifted.log_probabilities(x), logs, atol=1e-9)


def test_far_extrapolation_stays_finite() -> None:
    logs = SoftmaxGate(np.array([[0.0, 1e3], [0.0, -1e3]])).log_probabilities(np.array([[1e3], [-1e3]]))
    np.testing.assert_array_equal(logs, [[0, -2e6], [-2e6, 0]])


def test_anchoring_zeroes_the_last_row_and_keeps_the_function() -> None:
    rng = np.random.default_rng(2)
    gate, x = SoftmaxGate(rng.normal(size=(3, 3))), rng.normal(size=(8, 2))
    anchored = gate.anchored()
    np.testing.assert_array_equal(anchored.coefficients[-1], 0)
    np.testing.assert_allclose(anchored.log_probabilities(x), gate.log_probabilities(x), atol=1e-12)
    np.testing.assert_array_equal(anchored.anchored().coefficients, anchored.coefficients)


def test_selection_reorders_and_renormalises() -> None:
    rng = np.random.default_rng(3)
    gate, x = SoftmaxGate(rng.normal(size=(4, 3))), rng.normal(size=(8, 2))
    p = np.exp(gate.log_probabilities(x))
    np.testing.assert_allclose(np.exp(gate.select([3, 0, 1, 2]).log_probabilities(x)), p[:, [3, 0, 1, 2]], atol=1e-12)
    subset = p[:, [2, 0]] / p[:, [2, 0]].sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.exp(gate.select([2, 0]).log_probabilities(x)), subset, atol=1e-12)


@settings(deadline=None)
@given(seeds, st.integers(1, 4))
def test_a_pooled_gate_is_the_product_of_machine_and_expert(seed: int, machines: int) -> None:
    rng = np.random.default_rng(seed)
    x, rows = rng.normal(size=(6, 2)), rng.integers(1, 100, size=machines).astype(float)
    gates = tuple(SoftmaxGate(rng.normal(size=(rng.integers(1, 4), 3))) for _ in range(machines))
    pooled = PooledGate(gates, ConstantWeights(rows))
    p = np.exp(pooled.log_probabilities(x))
    assert p.shape == (6, pooled.n_experts)
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-12)
    column = 0
    for m, gate in enumerate(gates):
        for k in range(gate.n_experts):
            logits = np.column_stack([np.ones(6), x]) @ gate.coefficients.T
            share = np.exp(logits[:, k]) / np.exp(logits).sum(axis=1)
            np.testing.assert_allclose(p[:, column], rows[m] / rows.sum() * share, atol=1e-12)
            column += 1


def test_constant_weights_are_shares_in_any_scale() -> None:
    x = np.zeros((3, 1))
    weights = ConstantWeights(np.array([1.0, 3.0]))
    np.testing.assert_allclose(np.exp(weights.log_weights(x)), [[0.25, 0.75]] * 3)
    np.testing.assert_allclose(ConstantWeights(np.array([1e300, 3e300])).log_weights(x), weights.log_weights(x))


def test_weights_may_follow_x() -> None:
    class Step:
        def log_weights(self, x: np.ndarray) -> np.ndarray:
            return np.log(np.where(x > 0, [[0.9, 0.1]], [[0.2, 0.8]]))

    gates = (SoftmaxGate(np.zeros((1, 2))), SoftmaxGate(np.zeros((2, 2))))
    p = np.exp(PooledGate(gates, Step()).log_probabilities(np.array([[1.0], [-1.0]])))
    assert p == pytest.approx(np.array([[0.9, 0.05, 0.05], [0.2, 0.4, 0.4]]))
