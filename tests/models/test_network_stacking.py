"""Stacking weights: the minimiser that brute force and a general optimiser find, from sums that owners add."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from quiltwork.errors import InvalidOption
from quiltwork.models.network.stacking import StackingSums, stack, stacked


def draw(members: int, rows: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, k, rows)
    logits = rng.normal(size=(members, rows, k)) + np.eye(k)[truth] * rng.uniform(0, 3, size=(members, 1, 1))
    p = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    return p, np.eye(k)[truth]


def brute_force(gram: np.ndarray, cross: np.ndarray) -> float:
    """The least loss over all supports, by the equality-constrained solution on each."""
    best, members = np.inf, len(cross)
    for size in range(1, members + 1):
        for chosen in combinations(range(members), size):
            kkt = np.ones((size + 1, size + 1))
            kkt[:size, :size], kkt[-1, -1] = gram[np.ix_(chosen, chosen)], 0
            weights = np.linalg.lstsq(kkt, np.append(cross[list(chosen)], 1), rcond=None)[0][:size]
            if weights.min() >= -1e-12 and abs(weights.sum() - 1) < 1e-9:
                best = min(best, weights @ gram[np.ix_(chosen, chosen)] @ weights - 2 * cross[list(chosen)] @ weights)
    return float(best)


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 6), st.integers(1, 12), st.integers(2, 4), st.integers(0, 10**6))
def test_no_support_gives_a_lower_loss(members: int, rows: int, k: int, seed: int) -> None:
    sums = StackingSums.from_outputs(*draw(members, rows, k, seed))
    weights = stack(sums.gram, sums.cross)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    found = weights @ sums.gram @ weights - 2 * sums.cross @ weights
    assert found <= brute_force(sums.gram, sums.cross) + 1e-7 * max(1, np.trace(sums.gram))


@pytest.mark.parametrize("seed", range(5))
def test_a_general_optimiser_finds_the_same_weights(seed: int) -> None:
    sums = StackingSums.from_outputs(*draw(8, 400, 5, seed))
    answer = minimize(
        lambda w: sums.loss(w),
        np.full(8, 1 / 8),
        bounds=[(0, 1)] * 8,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    weights = stack(sums.gram, sums.cross)
    np.testing.assert_allclose(weights, answer.x, atol=1e-4)
    assert sums.loss(weights) <= answer.fun + 1e-10


def test_many_members_on_a_corner_and_inside() -> None:
    rng = np.random.default_rng(9)
    for _ in range(20):
        half = rng.normal(size=(60, 40))
        gram, cross = half.T @ half, rng.normal(size=40) * 10
        weights = stack(gram, cross)
        slope = gram @ weights - cross
        level = slope[weights > 0]
        assert np.ptp(level) < 1e-6
        assert slope.min() > level.max() - 1e-6


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 3), min_size=12, max_size=12), st.integers(0, 10**6))
def test_owners_sums_give_the_weights_of_pooled_rows(owner: list[int], seed: int) -> None:
    outputs, targets = draw(3, 12, 3, seed)
    held = np.array(owner)
    parts = [StackingSums.from_outputs(outputs[:, held == o], targets[held == o]) for o in sorted(set(owner))]
    pooled = StackingSums.from_outputs(outputs, targets)
    found = stacked(parts)
    assert pooled.loss(found) == pytest.approx(pooled.loss(stack(pooled.gram, pooled.cross)), abs=1e-9)


def test_loss_is_the_brier_score_written_out_and_vertices_are_members() -> None:
    outputs, targets = draw(3, 30, 4, 0)
    sums = StackingSums.from_outputs(outputs, targets)
    weights = np.array([0.2, 0.5, 0.3])
    brier = np.mean([((weights @ outputs[:, i] - targets[i]) ** 2).sum() for i in range(30)])
    assert sums.loss(weights) == pytest.approx(brier)


def test_copies_share_alike_and_the_order_of_members_does_not_matter() -> None:
    outputs, targets = draw(3, 50, 3, 4)
    twice = StackingSums.from_outputs(outputs[[0, 1, 1, 2]], targets)
    weights = stack(twice.gram, twice.cross)
    assert weights[1] == pytest.approx(weights[2], abs=1e-5)
    order = [3, 1, 0, 2]
    turned = stack(twice.gram[np.ix_(order, order)], twice.cross[order])
    np.testing.assert_allclose(turned, weights[order], atol=1e-6)


def test_negative_control_least_squares_without_the_simplex_leaves_it() -> None:
    outputs, targets = draw(4, 30, 3, 7)
    sums = StackingSums.from_outputs(outputs, targets)
    free = np.linalg.solve(sums.gram, sums.cross)
    assert free.min() < 0 or abs(free.sum() - 1) > 1e-3


@pytest.mark.parametrize(
    ("gram", "cross", "said"),
    [
        (np.eye(2), np.ones(3), "shapes"),
        (np.array([[1.0, 2.0], [0.0, 1.0]]), np.ones(2), "symmetric"),
        (-np.eye(2), np.ones(2), "eigenvalue"),
        (np.eye(2) * np.nan, np.ones(2), "finite"),
    ],
)
def test_what_is_no_gram_is_refused(gram: np.ndarray, cross: np.ndarray, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        stack(gram, cross)


def test_outputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidOption, match="shapes"):
        StackingSums.from_outputs(np.zeros((2, 3, 2)), np.zeros((2, 2)))
    with pytest.raises(InvalidOption, match="different members"):
        stacked([])
    assert stack(np.zeros((3, 3)), np.zeros(3)).tolist() == pytest.approx([1 / 3] * 3)
