"""The steps of a reduction: what a plan brings against loops, monotone descent, exact optima, invariances."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.linear_model import LinearRegression
from transport_draws import KINDS, draw_mixture, gap_between, nudged, permuted

from quiltwork.errors import BrokenPromise, InvalidOption
from quiltwork.models.mixture import exponential, majorise
from quiltwork.models.mixture.exponential import expected, joined, natural, refit
from quiltwork.models.mixture.gate_reduction import correspondence, logit_gate, projected_gate
from quiltwork.models.mixture.gates import ConstantWeights, PooledGate, SoftmaxGate
from quiltwork.models.mixture.majorise import assign, descend, make_plan
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.pool import Pool, at_home, everywhere
from quiltwork.models.mixture.reduction import Steps, pooled_by_precision, reduce_mixtures, reduce_pool, reduced_experts
from quiltwork.models.mixture.seeding import starts
from quiltwork.models.mixture.small_samples import trusted

seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(KINDS)


def a_pool(kind: str, seed: int, sizes: tuple[int, ...] = (3, 2, 4), rows: int = 40) -> Pool:
    rng = np.random.default_rng(seed)
    mixtures = [draw_mixture(kind, rng, k) for k in sizes]
    return everywhere(mixtures, ConstantWeights(rng.uniform(0.5, 2, len(sizes))), rng.normal(size=(rows, 2)))


def every_expert(pool: Pool) -> Any:
    return joined([machine.mixture.experts for machine in pool.machines])


# The linear form and the plan ----------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(seeds, kinds)
def test_divergence_is_linear_in_expected_statistics(seed: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    f, g, x = draw_mixture(kind, rng).experts, draw_mixture(kind, rng, 4).experts, rng.normal(size=(6, 2))
    (t, e), (h, a) = expected(f, x), natural(g, x)
    total = e[:, :, None] + np.einsum("jnl,jkn->nlk", t, h) + a.T[:, None, :]
    np.testing.assert_allclose(total, f.divergence(g, x), rtol=1e-8, atol=1e-8)


@settings(deadline=None, max_examples=20)
@given(seeds, kinds, st.integers(1, 4), st.integers(1, 200))
def test_a_plan_brings_what_loops_bring(seed: int, kind: str, k: int, block: int) -> None:
    pool = a_pool(kind, seed)
    experts = draw_mixture(kind, np.random.default_rng(seed + 1), k).experts
    costs = every_expert(pool).divergence(experts, pool.x)
    nearest = costs.argmin(axis=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(majorise, "BLOCK_ENTRIES", block)
        plan = make_plan(pool, experts)
    for expert in range(k):
        sent = pool.weights * (nearest == expert)
        np.testing.assert_allclose(plan.masses[expert], sent.sum(axis=1), atol=1e-14)
        np.testing.assert_allclose(plan.moments[:, expert], np.einsum("sl,jsl->js", sent, pool.statistics), atol=1e-9)
    assert plan.objective == pytest.approx((pool.weights * costs.min(axis=2)).sum(), rel=1e-9, abs=1e-9)


def test_of_equal_experts_one_takes_all() -> None:
    pool = a_pool("gaussian", 1)
    twice = pool.machines[1].mixture.experts.select([0, 0, 1, 1])
    plan = make_plan(pool, twice)
    assert plan.shares[1] == pytest.approx(0, abs=1e-15)
    assert plan.shares[2] == pytest.approx(0, abs=1e-15)
    kept, _ = assign(pool, twice)
    assert kept.n_experts == 2


@settings(deadline=None, max_examples=15)
@given(seeds, kinds, st.sampled_from([0.05, 0.5, 5.0]))
def test_a_soft_plan_shares_out_by_exponentials(seed: int, kind: str, softness: float) -> None:
    pool = a_pool(kind, seed)
    experts = draw_mixture(kind, np.random.default_rng(seed + 1)).experts
    costs = every_expert(pool).divergence(experts, pool.x)
    plan = make_plan(pool, experts, softness)
    shares = np.exp(-(costs - costs.min(axis=2, keepdims=True)) / softness)
    total = shares.sum(axis=2)
    objective = (pool.weights * (costs.min(axis=2) - softness * np.log(total))).sum()
    masses = np.einsum("sl,slk->ks", pool.weights, shares / total[:, :, None])
    np.testing.assert_allclose(plan.masses, masses, atol=1e-12)
    assert plan.objective == pytest.approx(objective, rel=1e-8, abs=1e-8)


# Descent -------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(seeds, kinds, st.integers(1, 5), st.sampled_from([0.0, 0.3]))
def test_the_objective_never_rises(seed: int, kind: str, k: int, softness: float) -> None:
    pool = a_pool(kind, seed)
    start = draw_mixture(kind, np.random.default_rng(seed + 1), k).experts
    found = descend(pool, start, max_iterations=30, tolerance=0.0, softness=softness)
    assert all(after <= before for before, after in zip(found.path, found.path[1:], strict=False))
    assert np.isfinite(found.path).all()


def test_a_variance_without_its_dispersion_breaks_the_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference code sums (sum d)^2, which the normal equations make zero, where sum d^2 belongs."""
    pool = a_pool("gaussian", 4)
    own = every_expert(pool)

    def without_dispersion(previous: Any, x: np.ndarray, masses: np.ndarray, moments: np.ndarray) -> Any:
        nearest = own.divergence(previous, x).argmin(axis=2)
        sent = [(pool.weights * (nearest == k)).sum(axis=0) for k in range(previous.n_experts)]
        variances = np.array([[one @ own.variances[:, 0] / one.sum()] for one in sent])
        right = refit(previous, x, masses, moments)
        return type(right)(right.coefficients, variances)

    start = draw_mixture("gaussian", np.random.default_rng(5)).experts
    descend(pool, start, max_iterations=30, tolerance=0.0)
    monkeypatch.setattr(majorise, "refit", without_dispersion)
    with pytest.raises(BrokenPromise, match="no step can raise it"):
        descend(pool, start, max_iterations=30, tolerance=0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_refitted_experts_are_a_minimum(kind: str) -> None:
    pool = a_pool(kind, 7)
    start = draw_mixture(kind, np.random.default_rng(8), 2).experts
    plan = make_plan(pool, start)
    found = refit(start, pool.x, plan.masses, plan.moments)

    def total(shift: np.ndarray) -> float:
        parameters = {name: array.copy() for name, array in found.parameters().items()}
        parameters["coefficients"] += shift[: parameters["coefficients"].size].reshape(parameters["coefficients"].shape)
        if "variances" in parameters:
            parameters["variances"] *= np.exp(shift[parameters["coefficients"].size :]).reshape(
                -1, found.variances.shape[1]
            )  # type: ignore[attr-defined]
        return majorise.plan_cost(pool, plan, type(found)(**parameters))

    size = sum(array.size for array in found.parameters().values())
    best = minimize(total, np.zeros(size), method="BFGS")
    assert total(np.zeros(size)) <= best.fun + 1e-6


def test_one_expert_is_least_squares_on_pooled_predictions() -> None:
    pool = a_pool("gaussian", 9)
    found = descend(pool, pool.machines[0].mixture.experts.select([0]), max_iterations=5, tolerance=0.0).experts
    mean = (pool.weights * pool.statistics[0]).sum(axis=1) / pool.weights.sum(axis=1)
    line = LinearRegression().fit(pool.x, mean, sample_weight=pool.weights.sum(axis=1))
    np.testing.assert_allclose(found.coefficients[0, 0], [line.intercept_, *line.coef_], rtol=1e-9)


# Whole reductions ----------------------------------------------------------------


@pytest.mark.parametrize("gate", ["logit", "projection"])
@pytest.mark.parametrize("kind", KINDS)
def test_copies_are_returned_as_they_are(kind: str, gate: Any) -> None:
    rng = np.random.default_rng(11)
    f, x = draw_mixture(kind, rng), rng.normal(size=(300, 2)) * 2 + 3
    found = reduce_mixtures([f, permuted(f, [1, 2, 0]), f], ConstantWeights(np.array([1.0, 2, 3])), x, 3, gate=gate)
    assert gap_between(f, found.mixture, x) < 1e-6
    other = draw_mixture(kind, rng)
    assert gap_between(other, found.mixture, x) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_order_of_machines_and_of_experts_does_not_matter(kind: str) -> None:
    rng = np.random.default_rng(12)
    f, x = draw_mixture(kind, rng), rng.normal(size=(200, 2))
    machines = [nudged(f, rng, 0.05) for _ in range(4)]
    weights = np.array([1.0, 2, 3, 4])
    one = reduce_mixtures(machines, ConstantWeights(weights), x, 3).mixture
    turned = [permuted(machines[m], [2, 0, 1]) for m in (2, 0, 3, 1)]
    two = reduce_mixtures(turned, ConstantWeights(weights[[2, 0, 3, 1]]), x, 3).mixture
    assert gap_between(one, two, x) < 1e-6


def test_units_of_covariates_do_not_matter() -> None:
    rng = np.random.default_rng(13)
    f, x = draw_mixture("gaussian", rng), rng.normal(size=(200, 2))
    machines = [nudged(f, rng, 0.05) for _ in range(3)]
    scale, centre = np.array([1e4, 1e-3]), np.array([2000.0, -5.0])

    def moved(mixture: Mixture[Any]) -> Mixture[Any]:
        def raw(b: np.ndarray) -> np.ndarray:
            slopes = b[..., 1:] / scale
            return np.concatenate([(b[..., 0] - slopes @ centre)[..., None], slopes], axis=-1)

        experts = mixture.experts
        return Mixture(
            SoftmaxGate(raw(mixture.gate.coefficients)),  # type: ignore[attr-defined]
            type(experts)(raw(experts.coefficients), experts.variances),
        )

    one = reduce_mixtures(machines, ConstantWeights(np.ones(3)), x, 3).mixture
    two = reduce_mixtures([moved(m) for m in machines], ConstantWeights(np.ones(3)), x * scale + centre, 3).mixture
    y, _ = f.sample(x, rng)
    np.testing.assert_allclose(one.log_density(x, y), two.log_density(x * scale + centre, y), atol=1e-6)


def test_different_numbers_of_experts_reduce_to_the_truth_that_they_share() -> None:
    rng = np.random.default_rng(14)
    truth, x = draw_mixture("gaussian", rng), rng.normal(size=(400, 2))
    split = permuted(truth, [0, 1, 2, 2])
    assert isinstance(split.gate, SoftmaxGate)
    halves = split.gate.coefficients.copy()
    halves[2:, 0] -= np.log(2)
    more = Mixture(SoftmaxGate(halves), split.experts)
    found = reduce_mixtures([truth, more, truth], ConstantWeights(np.ones(3)), x, 3)
    assert found.gate == "logit"
    assert gap_between(truth, found.mixture, x) < 1e-6


def test_too_many_or_too_few_experts_are_refused() -> None:
    pool = a_pool("gaussian", 15)
    for k in (0, 10):
        with pytest.raises(InvalidOption, match="9 experts in all"):
            reduce_pool(pool, k)
    assert reduce_pool(pool, 9).path[-1] == pytest.approx(0, abs=1e-9)


def test_starts_are_enough_to_find_planted_experts() -> None:
    rng = np.random.default_rng(16)
    truth = draw_mixture("gaussian", rng, 5)
    machines = [permuted(nudged(truth, rng, 0.02), list(rng.permutation(5)[:3])) for _ in range(12)]
    pool = everywhere(machines, ConstantWeights(np.ones(12)), rng.normal(size=(300, 2)))
    found = reduced_experts(pool, 5, Steps()).experts
    gaps = truth.experts.coefficients[:, None] - pool.units.raw_coefficients(found.coefficients)[None]
    assert np.abs(gaps).max(axis=(2, 3)).min(axis=1).max() < 0.1
    assert len(starts(pool, 3, 4)) == 4


# Gates ---------------------------------------------------------------------------


def test_constant_weights_and_equal_numbers_average_the_coefficients() -> None:
    rng = np.random.default_rng(17)
    f, x = draw_mixture("gaussian", rng), rng.normal(size=(300, 2))
    machines = [nudged(f, rng, 0.02) for _ in range(3)]
    weights = np.array([1.0, 2.0, 5.0])
    pool = everywhere(machines, ConstantWeights(weights), x)
    experts = reduced_experts(pool, 3, Steps()).experts
    owners = correspondence(pool, experts)
    gate = pool.units.back(Mixture(logit_gate(pool, owners, 3), experts)).gate
    orders = [np.argsort(own) for own in owners if own is not None]
    rows = [m.gate.coefficients[order] for m, order in zip(machines, orders, strict=True)]  # type: ignore[attr-defined]
    mean = SoftmaxGate(sum(w * row for w, row in zip(weights / weights.sum(), rows, strict=True)))
    np.testing.assert_allclose(gate.log_probabilities(x), mean.log_probabilities(x), atol=1e-6)


def test_the_projected_gate_is_nearest_to_the_masses() -> None:
    pool = a_pool("gaussian", 18)
    experts = reduced_experts(pool, 2, Steps()).experts
    masses = make_plan(pool, experts).masses.T

    def loss(flat: np.ndarray) -> float:
        return -float((masses * SoftmaxGate(flat.reshape(2, 3)).log_probabilities(pool.x)).sum())

    found = projected_gate(pool, experts)
    assert loss(found.coefficients.ravel()) <= minimize(loss, np.zeros(6), method="BFGS").fun + 1e-7


def test_the_correction_takes_most_of_the_bias_of_small_samples() -> None:
    """Gates fitted to few rows of known labels are too steep; with N_m known, what they reduce to is not."""
    from quiltwork.models.mixture.regression import softmax_regression

    rng = np.random.default_rng(19)
    truth = Mixture(SoftmaxGate(np.array([[0.0, 2.0, -1.0], [0.0, 0, 0]])), draw_mixture("gaussian", rng, 2).experts)
    machines = []
    for _ in range(300):
        x = rng.normal(size=(60, 2))
        labels = truth.sample(x, rng)[1]
        gate = SoftmaxGate(softmax_regression(x, np.eye(2)[labels]))
        machines.append(Mixture(gate, truth.experts))
    support = rng.normal(size=(2000, 2))

    def slope(counts: np.ndarray | None) -> float:
        pool = everywhere(machines, ConstantWeights(np.ones(300)), support, counts)
        gate = reduce_pool(pool, 2).mixture.gate
        assert isinstance(gate, SoftmaxGate)
        difference = gate.coefficients[0] - gate.coefficients[1]
        return abs(float(difference[1]))

    plain, corrected = slope(None), slope(np.full(300, 60.0))
    assert plain > 2.1
    assert abs(corrected - 2) < 0.3 * (plain - 2)


def test_trust_discounts_experts_with_few_rows() -> None:
    rng = np.random.default_rng(20)
    mixtures = [draw_mixture("gaussian", rng, 2) for _ in range(2)]
    pool = at_home(mixtures, np.array([20.0, 4000.0]), [rng.normal(size=(50, 2))] * 2)
    before, after = pool.weights.sum(axis=1), trusted(pool).weights.sum(axis=1)
    assert after[:50].sum() / after[50:].sum() < before[:50].sum() / before[50:].sum()
    assert after.sum() == pytest.approx(1)


def test_machines_at_home_are_pooled_by_expectation() -> None:
    """The same machines on one support, at home and everywhere, are one pool."""
    rng = np.random.default_rng(21)
    mixtures, x = [draw_mixture("gaussian", rng) for _ in range(3)], rng.normal(size=(60, 2))
    counts = np.array([1.0, 2, 3])
    home, wide = at_home(mixtures, counts, [x] * 3), everywhere(mixtures, ConstantWeights(counts), x)
    experts = home.machines[0].mixture.experts
    assert make_plan(home, experts).objective == pytest.approx(make_plan(wide, experts).objective, rel=1e-9)
    np.testing.assert_allclose(make_plan(home, experts).shares, make_plan(wide, experts).shares, atol=1e-12)


# Precision -----------------------------------------------------------------------


def test_precision_pools_experts_as_one_regression_would() -> None:
    rng = np.random.default_rng(22)
    gate = SoftmaxGate(np.zeros((1, 3)))
    from quiltwork.models.mixture.experts.gaussian import GaussianExperts

    rows = [(rng.normal(size=(n, 2)) + n / 20, n) for n in (30, 50, 80)]
    data = [(x, x @ [2.0, -1.0] + 3 + rng.normal(size=n)) for x, n in rows]
    machines, grams = [], []
    for x, y in data:
        wide = np.column_stack([np.ones(len(x)), x])
        b = np.linalg.lstsq(wide, y, rcond=None)[0]
        machines.append(Mixture(gate, GaussianExperts(b[None, None], np.array([[((y - wide @ b) ** 2).mean()]]))))
        grams.append((wide.T @ wide)[None])
    pool = at_home(machines, np.array([30.0, 50, 80]), [x for x, _ in data])
    experts = pool.machines[0].mixture.experts
    found = pooled_by_precision(pool, experts, grams)
    x, y = np.concatenate([x for x, _ in data]), np.concatenate([y for _, y in data])
    wide = np.column_stack([np.ones(len(x)), x])
    b = np.linalg.lstsq(wide, y, rcond=None)[0]
    np.testing.assert_allclose(pool.units.raw_coefficients(found.coefficients)[0, 0], b, rtol=1e-8)
    assert found.parameters()["variances"][0, 0] == pytest.approx(((y - wide @ b) ** 2).mean(), rel=1e-8)


def test_a_pool_reduces_to_no_less_than_its_own_density_loses() -> None:
    """The objective with a projected gate bounds KL(pool || reduced): Monte Carlo stays below it."""
    rng = np.random.default_rng(23)
    mixtures, x = [draw_mixture("gaussian", rng) for _ in range(3)], rng.normal(size=(400, 2))
    weights = ConstantWeights(np.ones(3))
    found = reduce_mixtures(mixtures, weights, x, 4, gate="projection")
    pooled = Mixture(
        PooledGate(tuple(m.gate for m in mixtures), weights), exponential.joined([m.experts for m in mixtures])
    )
    many = np.repeat(x, 20, axis=0)
    y, _ = pooled.sample(many, rng)
    lost = pooled.log_density(many, y) - found.mixture.log_density(many, y)
    gates = lost.mean() - found.path[-1]
    assert lost.mean() > 0
    assert gates < 0.3
