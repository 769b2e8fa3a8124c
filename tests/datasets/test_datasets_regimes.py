"""Generated tables: the law they state, the cuts they promise, the seed they follow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import softmax

from quiltwork.datasets.regimes import (
    SIZE_SPREAD,
    RegimeName,
    Truth,
    even_truth,
    hard_truth,
    regime,
    simulate,
    with_shuffled_responses,
)
from quiltwork.errors import InvalidOption

NAMES: tuple[RegimeName, ...] = ("even", "hard", "shifted")


def residuals(truth: Truth, x: np.ndarray, y: np.ndarray, expert: np.ndarray) -> np.ndarray:
    """Noise of each row in its own unit."""
    b = truth.coefficients[expert, 0]
    return (y - b[:, 0] - (x * b[:, 1:]).sum(axis=1)) / np.sqrt(truth.variances[expert, 0])


@pytest.mark.parametrize("truth", [even_truth(3), hard_truth(3)], ids=["even", "hard"])
def test_rows_follow_the_stated_law(truth: Truth) -> None:
    piece = simulate(truth, 40_000, np.random.default_rng(0))
    lags = np.abs(np.subtract.outer(np.arange(3), np.arange(3)))
    np.testing.assert_allclose(np.cov(piece.x, rowvar=False), 0.5**lags, atol=0.03)
    np.testing.assert_allclose(piece.x.mean(axis=0), 0, atol=0.03)
    assert stats.kstest(residuals(truth, piece.x, piece.y, piece.expert), "norm").pvalue > 0.01
    wrong = residuals(truth, piece.x, piece.y, (piece.expert + 1) % 4)
    assert stats.kstest(wrong, "norm").pvalue < 1e-6


def test_experts_follow_the_gate_given_x() -> None:
    truth = hard_truth(2)
    piece = simulate(truth, 60_000, np.random.default_rng(1))
    p = softmax(truth.gate[:, 0] + piece.x @ truth.gate[:, 1:].T, axis=1)
    for part in (piece.x[:, 0] > 0.5, piece.x[:, 1] < -0.5):
        seen = np.bincount(piece.expert[part], minlength=4)
        assert stats.chisquare(seen, p[part].sum(axis=0)).pvalue > 0.01
        assert stats.chisquare(seen, p.mean(axis=0) * part.sum()).pvalue < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_the_pieces_are_the_pool_once_each(name: RegimeName) -> None:
    table = regime(name, machines=5, rows=603, seed=2)
    pool = simulate(table.truth, 603, np.random.default_rng([2, 0]))
    assert sum(map(len, table.pieces)) == 603
    gathered = np.concatenate([np.column_stack([p.x, p.y, p.expert]) for p in table.pieces])
    whole = np.column_stack([pool.x, pool.y, pool.expert])
    np.testing.assert_array_equal(gathered[np.lexsort(gathered.T)], whole[np.lexsort(whole.T)])


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(NAMES), st.integers(1, 12), st.integers(0, 200), st.integers(0, 2**31))
def test_no_machine_is_empty(name: RegimeName, machines: int, more: int, seed: int) -> None:
    table = regime(name, machines=machines, rows=machines + more, test_rows=3, seed=seed)
    sizes = [len(piece) for piece in table.pieces]
    assert len(sizes) == machines
    assert min(sizes) >= 1
    assert sum(sizes) == machines + more


def test_shifted_machines_see_different_covariates_and_even_ones_do_not() -> None:
    def apart(name: RegimeName) -> float:
        """Share of the covariates' variance that lies between machines, along the direction that shows it best."""
        pieces = regime(name, machines=8, rows=8000, seed=3).pieces
        means = np.array([piece.x.mean(axis=0) for piece in pieces])
        return float(np.linalg.eigvalsh(np.cov(means, rowvar=False)).max())

    assert apart("shifted") > 0.4
    assert apart("even") < 0.02


def test_shifted_sizes_are_uneven_as_stated() -> None:
    sizes = [len(piece) for piece in regime("shifted", machines=6, rows=60_000, test_rows=1, seed=4).pieces]
    assert max(sizes) / min(sizes) == pytest.approx(SIZE_SPREAD, rel=0.01)


def test_hard_experts_cross_and_two_are_nearly_the_same() -> None:
    truth = hard_truth(4)
    np.testing.assert_array_equal(truth.coefficients[:, 0, 0], 0)
    assert np.count_nonzero(truth.coefficients[0] != truth.coefficients[1]) == 1
    shares = np.bincount(simulate(truth, 50_000, np.random.default_rng(5)).expert) / 50_000
    assert shares.max() > 0.4
    assert 0.02 < shares.min() < 0.12


def test_machines_may_fit_different_numbers_of_experts() -> None:
    assert regime("hard", machines=4, rows=40, different_experts=True).n_experts == (3, 4, 5, 3)
    assert regime("hard", machines=4, rows=40).n_experts == (4, 4, 4, 4)


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides(name: RegimeName) -> None:
    one, again, other = (regime(name, machines=3, rows=60, seed=seed) for seed in (7, 7, 8))
    for a, b in zip((*one.pieces, one.test), (*again.pieces, again.test), strict=True):
        assert a.x.tobytes() == b.x.tobytes()
        assert a.y.tobytes() == b.y.tobytes()
    assert one.test.y.tobytes() != other.test.y.tobytes()
    assert not np.isin(one.test.y, np.concatenate([p.y for p in one.pieces])).any()


def test_a_callers_truth_is_used() -> None:
    truth = Truth(np.zeros((1, 3)), np.array([[[1.0, 2.0, 0.0]]]), np.array([[1e-12]]), correlation=0.0)
    table = regime("even", machines=2, rows=20, truth=truth)
    np.testing.assert_allclose(table.test.y, 1 + 2 * table.test.x[:, 0], atol=1e-4)
    assert table.n_experts == (1, 1)


def test_shuffling_keeps_the_responses_and_breaks_their_rows() -> None:
    piece = regime("even", machines=1, rows=500).pieces[0]
    spoiled = with_shuffled_responses(piece, seed=0)
    np.testing.assert_array_equal(np.sort(spoiled.y), np.sort(piece.y))
    np.testing.assert_array_equal(spoiled.x, piece.x)
    assert (spoiled.y != piece.y).mean() > 0.9


@pytest.mark.parametrize(
    ("options", "part"),
    [({"rows": 2, "machines": 3}, "2 rows over 3"), ({"machines": 0}, "0 machines"), ({"features": 1}, "features=1")],
)
def test_what_cannot_be_cut_is_refused(options: dict[str, int], part: str) -> None:
    with pytest.raises(InvalidOption, match=part):
        regime("even", **options)
