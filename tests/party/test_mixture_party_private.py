"""Noisy EM: what one row can change, what that costs, and what is left of the fit."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quiltwork.party.private_em as room
from quiltwork.compose.tables import local_of
from quiltwork.contribution.store import read
from quiltwork.errors import FragmentError, InvalidOption
from quiltwork.evidence.clipped import MOMENTS_SENSITIVITY, ClippedGaussian, weighted_moments
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.party.mixture import MixtureOrder, contribute_mixture
from quiltwork.party.private_em import PrivateFit, fit_privately, responsibilities
from quiltwork.party.table import table_from_arrays
from quiltwork.party.table_rows import Rows
from quiltwork.privacy.accountant import price
from quiltwork.privacy.events import GaussianEvent

DELTA = 1e-6


def bounds(columns: int, epsilon: float = 8.0, **options: Any) -> ClippedGaussian:
    return ClippedGaussian(np.zeros(columns), np.ones(columns), epsilon, DELTA, **options)


def two_lines(n: int, seed: int = 0) -> Rows:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2))
    y = np.where(x[:, 0] + 0.3 * rng.normal(size=n) > 0, x[:, 1], -x[:, 1]) + 0.2 * rng.normal(size=n)
    return Rows(x, y[:, None])


# sensitivity ----------------------------------------------------------


def look(table: np.ndarray, mixture: Mixture[Any], rule: ClippedGaussian) -> np.ndarray:
    """What one iteration takes from the rows, before noise."""
    return weighted_moments(table, responsibilities(mixture, table, rule), rule)


def change(table: np.ndarray, row: np.ndarray, mixture: Mixture[Any], rule: ClippedGaussian) -> float:
    return float(np.linalg.norm(look(np.vstack([table, row]), mixture, rule) - look(table, mixture, rule)))


numbers = st.floats(-1e6, 1e6)


@settings(max_examples=150, deadline=None)
@given(
    row=st.lists(numbers, min_size=3, max_size=3),
    table=st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=1, max_size=5),
    experts=st.integers(1, 5),
    seed=st.integers(0, 1000),
    clip=st.floats(0.1, 100),
)
def test_one_row_changes_a_look_by_no_more_than_the_stated_sensitivity(
    row: list[float], table: list[list[float]], experts: int, seed: int, clip: float
) -> None:
    rng = np.random.default_rng(seed)
    mixture = room._start(experts, 2, 1, rng)
    assert change(np.array(table), np.array([row]), mixture, bounds(3, clip=clip)) <= MOMENTS_SENSITIVITY


def test_the_sensitivity_is_reached() -> None:
    """The bound is not loose: a far row of one expert comes within the rounding of it."""
    mixture = room._start(1, 2, 1, np.random.default_rng(0))
    assert change(np.zeros((1, 3)), np.array([[1e9, 0, 0]]), mixture, bounds(3)) > MOMENTS_SENSITIVITY - 1e-2


def test_without_clipping_a_row_changes_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the same check fails for a variant that forgets to clip."""

    def unclipped(self: ClippedGaussian, rows: np.ndarray) -> np.ndarray:
        return np.asarray((rows - self.centre) / self.reach)

    monkeypatch.setattr(ClippedGaussian, "clipped", unclipped)
    mixture = room._start(2, 2, 1, np.random.default_rng(0))
    assert change(np.zeros((1, 3)), np.array([[30.0, 0, 0]]), mixture, bounds(3)) > MOMENTS_SENSITIVITY


def test_responsibilities_from_unnoised_parameters_would_change_more() -> None:
    """Why parameters must be noisy before the rows are looked at again: a row moves them, and they move all rows."""
    rows = two_lines(400)
    table = np.column_stack([rows.x, rows.y])
    rule = bounds(3)
    start = room._start(2, 2, 1, np.random.default_rng(0))

    def second_look(rows: np.ndarray) -> np.ndarray:
        return look(rows, room._maximised(look(rows, start, rule), 2, 0.01), rule)

    far = 1e9 * np.array([[1, 0, 1], [0, 1, 1], [0, 1, -1], [-1, 0, 1]])
    changes = [np.linalg.norm(second_look(np.vstack([table, row])) - second_look(table)) for row in far]
    assert max(changes) > 1.1 * MOMENTS_SENSITIVITY


def test_the_start_knows_no_row() -> None:
    seen = []
    original = responsibilities

    def spy(mixture: Mixture[Any], *rest: Any) -> np.ndarray:
        seen.append(mixture.experts.coefficients.copy())
        return original(mixture, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(room, "responsibilities", spy)
        for seed in (0, 1):
            fit_privately(two_lines(50, seed), 2, PrivateFit(bounds(3), iterations=1), seed=7)
    np.testing.assert_array_equal(seen[0], seen[1])


# price ----------------------------------------------------------------


@pytest.mark.parametrize(("epsilon", "iterations"), [(0.5, 1), (1.0, 20), (8.0, 50)])
def test_the_accountant_gives_the_epsilon_that_was_asked_for(epsilon: float, iterations: int) -> None:
    rule = PrivateFit(bounds(3, epsilon), iterations)
    events = rule.events()
    assert len(events) == iterations
    assert {(e.released, e.unit, e.sensitivity) for e in events} == {("mixture", "row", MOMENTS_SENSITIVITY)}
    assert price(events, delta=DELTA) == pytest.approx(epsilon, rel=2e-3)


def test_every_look_at_the_rows_gets_the_noise_of_its_event(monkeypatch: pytest.MonkeyPatch) -> None:
    amounts = []
    original = room.noisy_matrices

    def spy(totals: np.ndarray, times: np.ndarray, sigma: float, rng: Any) -> np.ndarray:
        amounts.append(sigma)
        noisy = original(totals, times, sigma, rng)
        assert not np.array_equal(noisy, totals)
        return noisy

    looks = []
    monkeypatch.setattr(room, "noisy_matrices", spy)
    monkeypatch.setattr(room, "weighted_moments", lambda *a: looks.append(1) or weighted_moments(*a))
    rule = PrivateFit(bounds(3), iterations=7)
    fit_privately(two_lines(50), 2, rule)
    assert amounts == [event.sigma for event in rule.events()]
    assert len(looks) == 7


def test_noise_is_never_the_same_twice_but_in_tests() -> None:
    rule = PrivateFit(bounds(3), iterations=2)
    free = [fit_privately(two_lines(50), 2, rule).mixture.experts.coefficients for _ in range(2)]
    assert not np.array_equal(*free)
    given = [fit_privately(two_lines(50), 2, rule, rng=np.random.default_rng(3)).mixture for _ in range(2)]
    np.testing.assert_array_equal(given[0].experts.coefficients, given[1].experts.coefficients)


# what is left of the fit ----------------------------------------------


def test_with_next_to_no_noise_one_expert_is_least_squares() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal([3.0, -50.0], [1.0, 10.0], size=(20_000, 2))
    y = np.column_stack([1 + 2 * x[:, 0] - 0.1 * x[:, 1], x[:, 1]]) + rng.normal(size=(20_000, 2)) * [0.5, 2.0]
    rule = ClippedGaussian(np.array([3, -50, 12, -50]), np.array([1, 10, 2.5, 10]), 1e4, DELTA, clip=12)
    fit = fit_privately(Rows(x, y), 1, PrivateFit(rule, iterations=2), rng=np.random.default_rng(1))
    wide = np.column_stack([np.ones(len(x)), x])
    solution, squares, *_ = np.linalg.lstsq(wide, y)
    np.testing.assert_allclose(fit.mixture.experts.coefficients[0], solution.T, atol=0.05)
    np.testing.assert_allclose(fit.mixture.experts.variances[0], squares / len(x), rtol=0.1)
    assert fit.rows == 20_000


def test_under_a_moderate_price_many_rows_still_tell_two_lines_apart() -> None:
    held_out = two_lines(4000, seed=99)
    fit = fit_privately(two_lines(40_000), 2, PrivateFit(bounds(3, 3.0), 40), rng=np.random.default_rng(2))
    density = fit.mixture.log_density(held_out.x, held_out.y).mean()
    normal = -0.5 * math.log(2 * math.pi * held_out.y.var()) - 0.5
    assert density > normal + 0.5


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(0, 30),
    experts=st.integers(1, 4),
    epsilon=st.sampled_from([0.01, 1.0, 100.0]),
    seed=st.integers(0, 100),
)
def test_whatever_the_noise_the_parameters_are_valid(n: int, experts: int, epsilon: float, seed: int) -> None:
    rows = two_lines(n, seed)
    rule = PrivateFit(bounds(3, epsilon), iterations=5)
    fit = fit_privately(rows, experts, rule, rng=np.random.default_rng(seed))
    probe = np.random.default_rng(0).normal(size=(20, 2))
    assert np.isfinite(fit.mixture.log_density(probe, probe[:, :1])).all()
    assert (fit.mixture.experts.variances > 0).all()
    assert fit.rows >= 1


# the contribution -----------------------------------------------------


def test_a_contribution_under_noise_has_a_finite_price_part_by_part(tmp_path: Path) -> None:
    rows = two_lines(3000)
    table = table_from_arrays(rows.x, rows.y)
    order = MixtureOrder(
        "ash",
        private=PrivateFit(bounds(3, 4.0)),
        covariates=bounds(2, 1.0),
        precision=bounds(2, 2.0),
    )
    made = contribute_mixture(table, tmp_path / "ash", order)
    assert read(made.path) == made
    events = made.manifest.privacy
    assert all(isinstance(event, GaussianEvent) and event.unit == "row" for event in events)
    for part, epsilon in (("mixture", 4.0), ("covariates", 1.0), ("precision", 2.0)):
        assert price([e for e in events if e.released == part], delta=DELTA) == pytest.approx(epsilon, rel=2e-3)
    whole = price(events, delta=DELTA)
    assert 4.0 < whole < 7.0
    method: Any = made.manifest.method
    assert method.log_likelihood is None
    # an exact count would tell of one row more or less; a noisy one may be right by chance, but not always
    assert len({method.rows, *(fit_privately(rows, 2, PrivateFit(bounds(3, 4.0))).rows for _ in range(8))}) > 1
    assert method.rows == pytest.approx(3000, abs=400)
    local = local_of(made)
    assert local.covariates is not None
    assert local.precision is not None
    assert local.converged
    assert np.linalg.eigvalsh(local.precision.gate_hessian).min() > -1e-6


def test_orders_that_would_undo_the_noise_are_refused() -> None:
    private = PrivateFit(bounds(3))
    sound = MixtureOrder("a", private=private, covariates=None)
    assert replace(sound, covariates=bounds(2)).private is private
    for change, what in (
        ({"covariates": 1}, "covariates=1"),
        ({"precision": True}, "precision=True"),
        ({"n_experts": "bic"}, "n_experts='bic'"),
        ({"n_experts": 0}, "n_experts=0"),
        ({"options": {"tol": 1.0}}, "option 'tol'"),
    ):
        with pytest.raises(InvalidOption, match=what):
            replace(sound, **change)
    with pytest.raises(InvalidOption, match="precision under noise"):
        MixtureOrder("a", precision=bounds(2))
    with pytest.raises(InvalidOption, match="iterations=0"):
        PrivateFit(bounds(3), iterations=0)


def test_tables_that_noise_is_not_made_for(tmp_path: Path) -> None:
    rows = two_lines(50)
    order = MixtureOrder("a", private=PrivateFit(bounds(3)), covariates=None)
    with pytest.raises(InvalidOption, match="poisson"):
        contribute_mixture(table_from_arrays(rows.x, np.arange(50), task="counts"), tmp_path / "a", order)
    with pytest.raises(InvalidOption, match="multinomial"):
        contribute_mixture(table_from_arrays(rows.x, np.arange(50) % 2, task="classification"), tmp_path / "a", order)
    with pytest.raises(InvalidOption, match="count alike"):
        contribute_mixture(table_from_arrays(rows.x, rows.y, weights=np.arange(50)), tmp_path / "a", order)
    with pytest.raises(InvalidOption, match="3 centres and scales for 2"):
        contribute_mixture(table_from_arrays(rows.x[:, :1], rows.y), tmp_path / "a", order)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("n", [0, 1, 20])
def test_a_table_of_no_rows_or_of_one_response_is_not_told_by_a_refusal(tmp_path: Path, n: int) -> None:
    """A row more would make it a table that is taken, and no noise hides whether a contribution appears."""
    table = table_from_arrays(np.zeros((n, 2)), np.zeros(n))
    rule = PrivateFit(bounds(3, 4.0), iterations=2)
    made = contribute_mixture(table, tmp_path / "ash", MixtureOrder("ash", private=rule, covariates=bounds(2)))
    assert price(made.manifest.privacy, delta=DELTA) < math.inf
    with pytest.raises(FragmentError):
        contribute_mixture(table, tmp_path / "exact", MixtureOrder("ash", covariates=None))
