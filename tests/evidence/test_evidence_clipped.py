"""Clipped moments: the sensitivity by brute force, exact sums, noise on every number as it is counted."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from quiltwork.errors import InvalidOption
from quiltwork.evidence.clipped import (
    HESSIAN_SENSITIVITY,
    MOMENTS_SENSITIVITY,
    ClippedGaussian,
    hessian_weights,
    noisy_matrices,
    shares,
    weighted_moments,
)

GRID = 2.0**-12
numbers = st.floats(-1e300, 1e300) | st.floats(-5, 5) | st.sampled_from([0.0, 1.0, -1.0, 1e308, -1e308])


def rule(columns: int = 2, **changes: Any) -> ClippedGaussian:
    fields: dict[str, Any] = {
        "centre": np.linspace(-1, 1, columns),
        "scale": np.linspace(1, 3, columns),
        "epsilon": 1.0,
        "delta": 1e-6,
    }
    return ClippedGaussian(**{**fields, **changes})


def change(one: np.ndarray, other: np.ndarray, times: np.ndarray) -> float:
    """L2 norm over the distinct numbers, each times the root of how often it occurs: by brute force."""
    total = 0.0
    for matrix, count in zip(one - other, times, strict=True):
        for i in range(len(matrix)):
            for j in range(i, len(matrix)):
                total += count * (1 if i == j else 2) * matrix[i, j] ** 2
    return math.sqrt(total)


def moments(x: np.ndarray, columns: int = 2) -> np.ndarray:
    return weighted_moments(x, np.ones((len(x), 1)), rule(columns))


# Sensitivity


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 5), st.data())
def test_one_row_changes_the_moments_by_at_most_the_bound(columns: int, data: st.DataObject) -> None:
    rows = st.lists(st.lists(numbers, min_size=columns, max_size=columns), min_size=1, max_size=6)
    x = np.array(data.draw(rows))
    with_row, without = moments(x, columns), moments(x[1:], columns)
    assert change(with_row, without, np.ones(1)) <= MOMENTS_SENSITIVITY


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 4), st.data())
def test_one_row_changes_grams_and_hessian_by_at_most_their_bounds(experts: int, data: st.DataObject) -> None:
    x = np.array(data.draw(st.lists(st.lists(numbers, min_size=2, max_size=2), min_size=1, max_size=4)))
    row = st.lists(st.floats(0, 1), min_size=experts, max_size=experts)
    weights = np.array(data.draw(st.lists(row, min_size=len(x), max_size=len(x))))
    grams = change(
        weighted_moments(x, shares(weights), rule()),
        weighted_moments(x[1:], shares(weights[1:]), rule()),
        np.ones(experts),
    )
    assert grams <= MOMENTS_SENSITIVITY
    pairs, times = hessian_weights(weights)
    hessian = change(weighted_moments(x, pairs, rule()), weighted_moments(x[1:], pairs[1:], rule()), times)
    assert hessian <= HESSIAN_SENSITIVITY
    assert math.hypot(grams, hessian) <= math.sqrt(5)


def test_the_bounds_are_reached() -> None:
    far = np.array([[1e6, 0.0]])
    none = np.zeros((1, 3, 3))
    assert change(moments(far), none, np.ones(1)) > 0.998 * MOMENTS_SENSITIVITY
    pairs, times = hessian_weights(np.array([[0.5, 0.5, 0.0]]))
    reached = weighted_moments(far, pairs, rule())
    assert change(reached, np.zeros_like(reached), times) > 0.998 * HESSIAN_SENSITIVITY


def test_negative_control_rows_that_are_not_clipped_break_the_bound() -> None:
    r, x = rule(), np.array([[40.0, 0.0]])
    u = (x - r.centre) / r.reach
    wide = np.concatenate((np.ones((1, 1)), u), axis=1)
    assert change((wide.T @ wide)[None], np.zeros((1, 3, 3)), np.ones(1)) > 10 * MOMENTS_SENSITIVITY


def test_negative_control_weights_above_one_break_the_bound() -> None:
    x, weights = np.array([[1e6, 0.0]]), np.array([[1.0, 1.0, 1.0]])
    loose = weighted_moments(x, weights, rule())
    assert change(loose, np.zeros_like(loose), np.ones(3)) > MOMENTS_SENSITIVITY
    assert shares(weights).sum() <= 1


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_the_weights_of_a_hessian_are_at_most_a_half_long(gate: list[float]) -> None:
    """The norm from the whole matrix diag(pi) - pi pi', and not from its upper triangle."""
    pi = shares(np.array([gate]))[0, :-1]
    whole = np.diag(pi) - np.outer(pi, pi)
    pairs, times = hessian_weights(np.array([gate]))
    assert math.sqrt(float((times * pairs[0] ** 2).sum())) == pytest.approx(float(np.linalg.norm(whole)), abs=1e-12)
    assert np.linalg.norm(whole) <= 0.5


@given(st.lists(st.lists(st.floats(allow_nan=True), min_size=3, max_size=3), min_size=1, max_size=3))
def test_any_weights_become_shares_in_whole_grid_steps(weights: list[list[float]]) -> None:
    cut = shares(np.array(weights))
    assert (cut >= 0).all()
    assert (cut.sum(axis=1) <= 1).all()
    assert (cut / GRID == np.rint(cut / GRID)).all()


# Sums


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_sums_are_those_of_fractions_in_any_order(seed: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    x, weights = rng.normal(size=(20, columns)) * 5, shares(rng.dirichlet(np.ones(2), size=20))
    total = weighted_moments(x, weights, rule(columns))
    u = rule(columns).clipped(x)
    for r in range(2):
        for i in range(1 + columns):
            for j in range(1 + columns):
                exact = sum(
                    Fraction(float(w))
                    * (Fraction(float(row[i - 1])) if i else 1)
                    * (Fraction(float(row[j - 1])) if j else 1)
                    for w, row in zip(weights[:, r], u, strict=True)
                )
                assert Fraction(float(total[r, i, j])) == exact
    order = rng.permutation(20)
    assert weighted_moments(x[order], weights[order], rule(columns)).tobytes() == total.tobytes()


def test_many_blocks_add_up_exactly() -> None:
    x = np.random.default_rng(0).normal(size=(20_000, 2))
    halves = moments(x[:9999]) + moments(x[9999:])
    assert moments(x).tobytes() == halves.tobytes()
    assert moments(x)[0, 0, 0] == 20_000
    assert moments(np.zeros((0, 2))).tobytes() == np.zeros((1, 3, 3)).tobytes()


@settings(deadline=None)
@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=5))
def test_clipped_rows_lie_in_the_ball_on_the_grid(rows: list[list[float]]) -> None:
    u = rule(3).clipped(np.array(rows))
    assert (u / GRID == np.rint(u / GRID)).all()
    assert all(sum(Fraction(float(value)) ** 2 for value in row) <= 1 for row in u)


def test_rows_inside_the_ball_are_kept_and_others_keep_their_direction() -> None:
    r = rule(2, centre=np.zeros(2), scale=np.ones(2), clip=2.0)
    u = r.clipped(np.array([[1.0, -0.5], [30.0, 40.0]]))
    np.testing.assert_allclose(u, [[0.5, -0.25], [0.6, 0.8]], atol=4 * GRID)
    negative = np.linalg.norm(u[1])
    assert negative <= 1


def test_the_default_clip_takes_few_normal_rows() -> None:
    for columns in (1, 2, 20):
        r = ClippedGaussian(np.zeros(columns), np.ones(columns), 1.0, 1e-6)
        x = np.random.default_rng(0).normal(size=(50_000, columns))
        assert (np.linalg.norm(x, axis=1) > r.reach[0]).mean() < 0.005


# Noise


def test_noise_is_larger_the_rarer_a_number_occurs() -> None:
    """Standard deviations of 4000 draws against sigma over the root of the count, five standard errors wide."""
    rng, draws, sigma = np.random.default_rng(0), 4000, 8.0
    times = np.array([1.0, 2.0])
    noisy = np.stack([noisy_matrices(np.zeros((2, 3, 3)), times, sigma, rng) for _ in range(draws)])
    assert np.array_equal(noisy, np.swapaxes(noisy, -1, -2))
    for r, i, j in np.ndindex(2, 3, 3):
        due = sigma / math.sqrt(times[r] * (1 if i == j else 2))
        assert noisy[:, r, i, j].std() == pytest.approx(due, rel=5 / math.sqrt(2 * draws) + 0.01)
    # as it is counted for the sensitivity, all of it has one sigma
    weighted = noisy[:, 0][:, *np.triu_indices(3)] * np.where(np.equal(*np.triu_indices(3)), 1, math.sqrt(2))
    np.testing.assert_allclose(np.cov(weighted, rowvar=False) / sigma**2, np.eye(6), atol=0.12)
    assert abs(norm.cdf(weighted / sigma).mean() - 0.5) < 0.02


# Rules


def test_a_rule_from_text() -> None:
    made = ClippedGaussian.from_text("gaussian:epsilon=2,delta=1e-5,clip=3", np.zeros(4), np.full(4, 2.0))
    assert (made.epsilon, made.delta, made.clip) == (2.0, 1e-5, 3.0)
    assert made.reach.tolist() == [6.0] * 4
    plain = ClippedGaussian.from_text(" gaussian:delta=1e-5,epsilon=2 ", np.zeros(4), np.ones(4))
    assert plain.clip is None
    assert plain.reach.tolist() == [4.0] * 4


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("exact", "under Gaussian noise, or exactly"),
        ("laplace:epsilon=1", "under Gaussian noise, or exactly"),
        ("gaussian", "needs epsilon and delta"),
        ("gaussian:epsilon=1", "needs delta"),
        ("gaussian:epsilon=1,delta=1e-6,clip=0", r"clip=0\.0"),
        ("gaussian:epsilon=1,delta=1e-6,clip=inf", "clip is not finite"),
        ("gaussian:epsilon=1,delta=1e-6,sigma=0", "no parameter 'sigma'"),
        ("gaussian:epsilon=0,delta=1e-6", r"epsilon=0\.0"),
        ("gaussian:epsilon=1,delta=1", r"delta=1\.0"),
    ],
)
def test_a_text_that_is_no_rule_is_refused(text: str, why: str) -> None:
    with pytest.raises(InvalidOption, match=why):
        ClippedGaussian.from_text(text, np.zeros(2), np.ones(2))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"centre": np.zeros(3)}, "centre and scale"),
        ({"centre": np.zeros((2, 1))}, "centre and scale"),
        ({"centre": np.array([0.0, math.nan])}, "centre and scale"),
        ({"scale": np.array([1.0, 0.0])}, "scale"),
        ({"scale": np.array([1.0, -1.0])}, "scale"),
        ({"scale": np.array([1.0, math.inf])}, "scale"),
        ({"clip": 0.0}, "clip"),
        ({"clip": math.nan}, "clip"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": math.inf}, "epsilon"),
        ({"delta": 0.0}, "delta"),
    ],
)
def test_a_rule_outside_its_domain_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidOption, match=why):
        rule(**changes)


@pytest.mark.parametrize(("scale", "clip"), [(1e-323, 0.1), (1e308, 10.0)])
def test_units_by_which_nothing_can_be_divided_are_refused(scale: float, clip: float) -> None:
    with pytest.raises(InvalidOption, match="zero or infinite"):
        ClippedGaussian(np.zeros(1), np.array([scale]), 1.0, 1e-6, clip)


def test_more_rows_than_whole_numbers_can_add_are_refused() -> None:
    """2^27 counts in units of 2^-36 are 2^63, one too many."""
    table = np.broadcast_to(np.float64(0.0), (2**27, 1))
    with pytest.raises(InvalidOption, match="would not be exact"):
        weighted_moments(table, np.broadcast_to(np.float64(1.0), (2**27, 1)), rule(1))
