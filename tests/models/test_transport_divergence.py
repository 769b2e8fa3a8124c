"""Alignment and the transportation divergence, against POT, brute force and the inequalities that bind them."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from transport_draws import KINDS, draw_mixture, nudged, permuted

from quiltwork.errors import BrokenPromise, InvalidOption
from quiltwork.models.mixture import transport
from quiltwork.models.mixture.alignment import match, pair_costs
from quiltwork.models.mixture.transport import divergence_bound, transport_divergence

seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(KINDS)


@settings(deadline=None, max_examples=25)
@given(seeds, kinds, st.integers(1, 4), st.integers(1, 4))
def test_divergence_is_what_pot_finds(seed: int, kind: str, own: int, its: int) -> None:
    rng = np.random.default_rng(seed)
    f, g, x = draw_mixture(kind, rng, own), draw_mixture(kind, rng, its), rng.normal(size=(7, 2))
    costs, left, right = f.experts.divergence(g.experts, x), np.exp(f.log_gate(x)), np.exp(g.log_gate(x))
    rows = [ot.emd2(a / a.sum(), b / b.sum(), c) for a, b, c in zip(left, right, costs, strict=True)]
    assert transport_divergence(f, g, x) == pytest.approx(np.mean(rows), rel=1e-6, abs=1e-7)


@settings(deadline=None, max_examples=25)
@given(seeds, kinds, st.integers(1, 4))
def test_relaxed_is_the_nearest_expert_and_bounds_from_below(seed: int, kind: str, its: int) -> None:
    rng = np.random.default_rng(seed)
    f, g, x = draw_mixture(kind, rng), draw_mixture(kind, rng, its), rng.normal(size=(6, 2))
    costs, left = f.experts.divergence(g.experts, x), np.exp(f.log_gate(x))
    by_hand = np.mean([sum(left[i, k] * costs[i, k].min() for k in range(3)) for i in range(6)])
    relaxed = transport_divergence(f, g, x, "relaxed")
    assert relaxed == pytest.approx(by_hand, rel=1e-12, abs=1e-12)
    assert relaxed <= transport_divergence(f, g, x) + 1e-7


@settings(deadline=None, max_examples=15)
@given(seeds, kinds)
def test_a_mixture_is_at_no_distance_from_itself_in_any_order(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    f, x = draw_mixture(kind, rng), rng.normal(size=(5, 2))
    for marginals in ("both", "relaxed"):
        assert transport_divergence(f, permuted(f, [2, 0, 1]), x, marginals) == pytest.approx(0, abs=1e-7)  # type: ignore[arg-type]
    np.testing.assert_allclose(divergence_bound(f, permuted(f, [1, 2, 0]), x), 0, atol=1e-9)


GRID = np.linspace(-60, 60, 24001)


def density(mixture: Any, x: np.ndarray) -> np.ndarray:
    """f(y | x) on the grid, for one row and one output."""
    weight, mean = np.exp(mixture.log_gate(x))[0], mixture.experts.mean(x)[0, :, 0]
    parts = zip(weight, mean, np.sqrt(mixture.experts.variances[:, 0]), strict=True)
    return np.asarray(sum(w * norm.pdf(GRID, m, s) for w, m, s in parts))


def test_the_bound_is_above_the_divergence_of_the_densities() -> None:
    rng = np.random.default_rng(0)
    f, x = draw_mixture("gaussian", rng), rng.normal(size=(3, 2))
    for g in (draw_mixture("gaussian", rng), nudged(f, rng, 0.3)):
        for i in range(3):
            p, q = density(f, x[i : i + 1]), density(g, x[i : i + 1])
            kl = np.trapezoid(p * (np.log(p + 1e-300) - np.log(q + 1e-300)), GRID)
            assert divergence_bound(f, g, x[i : i + 1])[0] >= kl - 1e-6


def test_rows_beyond_one_programme_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    f, g, x = draw_mixture("gaussian", rng), draw_mixture("gaussian", rng, 2), rng.normal(size=(20, 2))
    whole = transport_divergence(f, g, x)
    monkeypatch.setattr(transport, "_LP_ROWS", 3)
    assert transport_divergence(f, g, x) == pytest.approx(whole, rel=1e-7)


def test_refusals() -> None:
    rng = np.random.default_rng(0)
    f, g = draw_mixture("gaussian", rng), draw_mixture("gaussian", rng, 2)
    with pytest.raises(InvalidOption, match="no rows"):
        transport_divergence(f, g, np.empty((0, 2)))
    with pytest.raises(InvalidOption, match="'both' or 'relaxed'"):
        transport_divergence(f, g, np.zeros((1, 2)), "none")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="3 and 2 experts"):
        match(f, g, np.zeros((1, 2)))
    with pytest.raises(InvalidOption, match="no rows"):
        match(f, f, np.empty((0, 2)))


def test_a_programme_without_solution_is_a_broken_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    f = draw_mixture("gaussian", np.random.default_rng(0))
    monkeypatch.setattr(
        transport, "linprog", lambda *a, **k: type("R", (), {"status": 2, "message": "infeasible", "fun": None})()
    )
    with pytest.raises(BrokenPromise, match="infeasible"):
        transport_divergence(f, f, np.zeros((1, 2)))


@settings(deadline=None, max_examples=20)
@given(seeds, kinds, st.permutations([0, 1, 2]))
def test_match_undoes_a_permutation(seed: int, kind: str, order: list[int]) -> None:
    rng = np.random.default_rng(seed)
    f, x = draw_mixture(kind, rng), rng.normal(size=(50, 2))
    assert [order[k] for k in match(f, permuted(f, order), x)] == [0, 1, 2]


@settings(deadline=None, max_examples=15)
@given(seeds)
def test_match_is_the_best_of_all_permutations(seed: int) -> None:
    rng = np.random.default_rng(seed)
    f, g, x = draw_mixture("gaussian", rng, 4), draw_mixture("gaussian", rng, 4), rng.normal(size=(9, 2))
    costs = pair_costs(f, g, x)
    best = min(sum(costs[k, o] for k, o in enumerate(order)) for order in permutations(range(4)))
    assert sum(costs[k, o] for k, o in enumerate(match(f, g, x))) == pytest.approx(best)


def test_gates_tell_equal_experts_apart() -> None:
    rng = np.random.default_rng(5)
    f = draw_mixture("gaussian", rng, 2)
    f = type(f)(f.gate, f.experts.select([0, 0]))
    assert list(match(f, permuted(f, [1, 0]), rng.normal(size=(40, 2)))) == [1, 0]
