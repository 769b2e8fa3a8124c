"""EM on its own: the likelihood never falls, whatever the family, weights, ridges and gate step; sums are exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixture_tables import density_by_hand, rows_of, separated
from scipy.special import log_softmax
from scipy.stats import poisson

from quiltwork.models.mixture import em, standard
from quiltwork.models.mixture.em import maximise
from quiltwork.models.mixture.likelihood import Problem
from quiltwork.models.mixture.standard import Standard
from quiltwork.models.mixture.steps import GaussianStep, MultinomialStep, Parameters, PoissonStep, Step

FAMILIES = ("gaussian", "poisson", "multinomial")


def ridge_of(amount: float, p: int) -> np.ndarray:
    return np.concatenate([[0.0], np.full(p - 1, amount)])


def problem(
    rng: np.random.Generator, family: str, *, n: int = 60, d: int = 2, outputs: int = 1, ridge: float = 0.1, **how: Any
) -> Problem:
    """Rows that no mixture made, with random weights, some of them zero."""
    x = rng.standard_normal((n, d)) * rng.uniform(0.1, 10, d) + rng.normal(size=d)
    rows = Standard.of(x, rng.uniform(0, 2, n) * (rng.uniform(size=n) > 0.2) + 1e-3)
    steps: dict[str, Step] = {
        "gaussian": GaussianStep(rng.standard_t(3, (outputs, n)), ridge_of(ridge, d + 1), 1e-6),
        "poisson": PoissonStep(rng.poisson(rng.gamma(1.0, 3.0, n)) * 1.0, ridge_of(ridge, d + 1), 3.0),
        "multinomial": MultinomialStep(rng.integers(3, size=n), ridge_of(ridge, d + 1), 3),
    }
    return Problem(rows, steps[family], ridge_of(ridge, d + 1), **how)


def anywhere(rng: np.random.Generator, at: Problem, k: int, spread: float = 1.0) -> Parameters:
    """Random parameters, gate centred."""
    blank = at.step.blank(k, at.rows.p)
    gate = spread * rng.standard_normal(blank.gate.shape)
    coefficients = blank.coefficients + 0.3 * spread * rng.standard_normal(blank.coefficients.shape)
    if at.step.exact is False:
        coefficients -= coefficients.mean(axis=1, keepdims=True) * (coefficients.shape[1] > 1)
    return Parameters(gate - gate.mean(axis=0), coefficients, blank.variances * np.exp(rng.normal()))


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.sampled_from(FAMILIES),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.1, 5.0]),
    st.sampled_from(["newton", "bohning"]),
    st.floats(0.1, 8.0),
)
def test_the_likelihood_never_falls(
    seed: int, family: str, k: int, ridge: float, gate_step: str, spread: float
) -> None:
    rng = np.random.default_rng(seed)
    outputs = int(rng.integers(1, 4)) if family == "gaussian" else 1
    at = problem(rng, family, ridge=ridge, gate_step=gate_step, outputs=outputs)
    run = maximise(at, anywhere(rng, at, k, spread), tolerance=0.0, max_iterations=25)
    path = np.array(run.path)
    assert np.isfinite(path).all()
    assert (np.diff(path) >= 0).all()
    # the value is that of the parameters, and not of a step that was taken back
    assert at.at(run.last.parameters).value == pytest.approx(path[-1], rel=1e-12)


def test_without_the_safeguard_the_likelihood_does_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    """The property above can fail: trusted Newton steps break it."""
    monkeypatch.setattr(em, "_next", lambda problem, here, given: problem.at(problem.target(here), given))
    fell = False
    for seed in range(30):
        rng = np.random.default_rng(seed)
        at = problem(rng, "poisson", ridge=0.0)
        with np.errstate(all="ignore"):
            run = maximise(at, anywhere(rng, at, 3, 8.0), tolerance=-np.inf, max_iterations=10)
        fell = fell or bool((np.diff(run.path) < -1e-6).any())
    assert fell


@pytest.mark.parametrize("family", FAMILIES)
def test_the_value_is_the_weighted_log_likelihood_by_hand(family: str) -> None:
    truth = separated(family)
    x, y = rows_of(truth, 40)
    w = np.random.default_rng(2).uniform(0, 2, 40)
    rows = Standard.of(x, w, standardise=False)
    zero = np.zeros(3)
    step: Step
    if family == "gaussian":
        step = GaussianStep(np.ascontiguousarray(y.T), zero, 1e-6)
    elif family == "poisson":
        step = PoissonStep(y[:, 0], zero, 1.0)
    else:
        step = MultinomialStep(y, zero, 3)
    variances = getattr(truth.experts, "variances", np.empty((2, 0)))
    here = Problem(rows, step, zero).at(Parameters(truth.gate.coefficients, truth.experts.coefficients, variances))
    assert here.value == pytest.approx(w @ density_by_hand(truth, x, y), rel=1e-10)
    np.testing.assert_allclose(here.sums.mass, truth.responsibilities(x, y).T @ w, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_slopes_are_gradients_of_the_observed_likelihood(family: str) -> None:
    """Fisher's identity: at any parameters the EM slopes are the gradient of L itself."""
    rng = np.random.default_rng(4)
    at = problem(rng, family, ridge=0.3)
    here = anywhere(rng, at, 3)
    slope = at.at(here).gate_slope
    numeric = np.zeros_like(slope)
    for index in np.ndindex(*slope.shape):
        move = np.zeros_like(slope)
        move[index] = 1e-5
        up, down = (at.at(replace(here, gate=here.gate + s * move)).value for s in (1, -1))
        numeric[index] = (up - down) / 2e-5
    np.testing.assert_allclose(slope, numeric, rtol=1e-5, atol=1e-5)
    if family != "gaussian":
        moved = at.step.update(here, at.at(here).sums).coefficients - here.coefficients
        ahead = at.at(replace(here, coefficients=here.coefficients + 1e-4 * moved)).value
        assert ahead > at.at(here).value


@pytest.mark.parametrize("family", FAMILIES)
def test_a_converged_run_is_stationary(family: str) -> None:
    rng = np.random.default_rng(8)
    at = problem(rng, family, n=150, ridge=1.0)
    run = maximise(at, anywhere(rng, at, 2), tolerance=0.0, max_iterations=3000)
    assert np.abs(run.last.gate_slope).max() < 1e-3
    other = at.step.update(run.last.parameters, run.last.sums)
    np.testing.assert_allclose(other.coefficients, run.last.parameters.coefficients, atol=1e-3)


def test_given_responsibilities_give_the_expected_complete_likelihood() -> None:
    rng = np.random.default_rng(1)
    at = problem(rng, "poisson", ridge=0.0)
    at = replace(at, ridge_gate=np.zeros(3))
    start = at.step.blank(2, at.rows.p)
    tau = rng.dirichlet(np.ones(2), 60).T
    run = maximise(at, start, tolerance=0.0, max_iterations=10, given=lambda block: tau[:, block.rows])
    assert (np.diff(run.path) >= 0).all()
    found = run.last.parameters
    z = np.concatenate([b.z for b in at.rows.blocks()], axis=1)
    log_phi = poisson.logpmf(at.step.y, np.exp(found.coefficients[:, 0] @ z))  # type: ignore[attr-defined]
    expected = (tau * (log_softmax(found.gate @ z, axis=0) + log_phi)).sum(axis=0) @ at.rows.weights
    assert run.last.value == pytest.approx(expected, rel=1e-10)


def creeping(seed: int = 0) -> tuple[Problem, Parameters]:
    """Three experts on what two overlapping ones made."""
    rng = np.random.default_rng(seed)
    x, side = rng.standard_normal((400, 2)), rng.integers(2, size=400) - 0.5
    rows, ridge = Standard.of(x, np.ones(400)), ridge_of(1e-3, 3)
    y = (x[:, 0] + 1.5 * side + rng.standard_normal(400))[None]
    at = Problem(rows, GaussianStep(y / y.std(), ridge * 0, 1e-6), ridge)
    return at, anywhere(rng, at, 3)


def test_leaps_arrive_sooner_and_no_lower(monkeypatch: pytest.MonkeyPatch) -> None:
    at, start = creeping()
    run = maximise(at, start, tolerance=1e-8, max_iterations=5000)
    monkeypatch.setattr(em, "_creeps", lambda walked, small: False)
    walk = maximise(at, start, tolerance=1e-8, max_iterations=5000)
    assert (np.diff(run.path) >= 0).all()
    assert run.converged
    assert len(run.path) < len(walk.path) / 2
    assert run.last.value > walk.last.value - 1e-2


def test_a_leap_that_lands_low_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    at, start = creeping()
    walk = maximise(at, start, tolerance=-np.inf, max_iterations=3)
    passes = [at.at(p) for p in (start, walk.last.parameters)]
    low = [passes[1], passes[0], passes[1]]
    monkeypatch.setattr(em, "FARTHEST_LEAP", 1e6)
    assert em._leap(at, low, None).value >= passes[1].value


def test_leaps_trusted_blindly_would_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    at, start = creeping()
    real = em._flat

    def trusted(problem: Problem, walked: list[Any], given: Any) -> Any:
        zero, one, two = (real(each.parameters) for each in walked)
        far = 50 * (one - zero) + 2500 * (two - 2 * one + zero)
        return problem.at(em._unflat(zero + far, walked[-1].parameters), given)

    monkeypatch.setattr(em, "_leap", trusted)
    assert (np.diff(maximise(at, start, tolerance=0.0, max_iterations=200).path) < 0).any()


def test_a_hopeless_run_is_given_up_and_others_are_not() -> None:
    rng = np.random.default_rng(0)
    at = problem(rng, "gaussian")
    start = anywhere(rng, at, 3)
    free = maximise(at, start, tolerance=0.0, max_iterations=60)
    assert len(maximise(at, start, tolerance=0.0, max_iterations=60, rival=free.last.value + 1e6).path) < 25
    assert len(maximise(at, start, tolerance=0.0, max_iterations=60, rival=free.path[0]).path) == len(free.path)


def test_a_run_bound_for_its_rivals_value_stops_on_the_way() -> None:
    at, start = apart()
    free = maximise(at, start, tolerance=1e-6, max_iterations=60)
    there = free.last.value
    stopped = maximise(at, start, tolerance=1e-6, max_iterations=60, rival=there)
    assert len(stopped.path) < len(free.path) - 1
    assert stopped.end == there > stopped.last.value
    assert stopped.path == free.path[: len(stopped.path)]


@pytest.mark.parametrize("off", [-0.02, 0.02])
def test_a_run_bound_for_another_value_goes_on(off: float) -> None:
    """Whether it will end below the rival or above."""
    at, start = apart()
    free = maximise(at, start, tolerance=1e-6, max_iterations=60)
    rival = free.last.value + off * float(at.rows.weights.sum())
    other = maximise(at, start, tolerance=1e-6, max_iterations=60, rival=rival)
    assert other.path == free.path
    assert other.end == other.last.value


def apart() -> tuple[Problem, Parameters]:
    """Experts that are soon told apart, and a start."""
    x, y = rows_of(separated(), 400)
    rows = Standard.of(x, np.ones(len(x)))
    step = GaussianStep(np.ascontiguousarray((y - y.mean(axis=0)).T / y.std()), np.zeros(3), 1e-6)
    at = Problem(rows, step, ridge_of(1e-3, 3))
    return at, anywhere(np.random.default_rng(1), at, 2, 0.3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wide", [False, True])
def test_block_size_changes_nothing_beyond_rounding(family: str, wide: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    for kept, at_once, widest in ((1 << 30, 1 << 18, 64), (0, 1, 64), (0, 1, 0 if wide else 64)):
        monkeypatch.setattr(standard, "KEPT_PRODUCTS", kept)
        monkeypatch.setattr(standard, "PRODUCTS_AT_ONCE", at_once)
        monkeypatch.setattr(standard, "WIDEST_PACKED", widest)
        monkeypatch.setattr(standard, "FEWEST_ROWS", 7)
        at = problem(np.random.default_rng(6), family, n=100)
        passes.append(at.at(anywhere(np.random.default_rng(7), at, 3)))
    for other in passes[1:]:
        assert other.value == pytest.approx(passes[0].value, rel=1e-12)
        np.testing.assert_allclose(other.gate_edges, passes[0].gate_edges, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(other.sums.second, passes[0].sums.second, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(other.sums.first, passes[0].sums.first, rtol=1e-10, atol=1e-10)


def test_an_expert_without_rows_keeps_its_coefficients_and_stays_finite() -> None:
    rng = np.random.default_rng(0)
    at = problem(rng, "gaussian")
    start = anywhere(rng, at, 2)
    gate = np.zeros_like(start.gate)
    gate[:, 0] = [200.0, -200.0]
    run = maximise(at, replace(start, gate=gate), tolerance=0.0, max_iterations=10)
    np.testing.assert_array_equal(run.last.parameters.coefficients[1], start.coefficients[1])
    assert np.isfinite(run.last.parameters.gate).all()
    assert run.last.value >= run.path[0]
