"""The baselines over tables against independent oracles: brute force over permutations, POT, pooled least squares."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import table_machines as tm
from quiltwork.compose.aligned_average import AlignedAverage
from quiltwork.compose.ambient import AmbientMixture
from quiltwork.compose.middle import Middle, total_divergences
from quiltwork.compose.ordered import arranged, averaged, orders
from quiltwork.compose.precision_average import PrecisionAverage, reordered
from quiltwork.compose.support import draw_support
from quiltwork.compose.tables import Local, TableMethod
from quiltwork.models.mixture.alignment import pair_costs
from quiltwork.models.mixture.design import augmented
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.local import Precision
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.transport import divergence_bound

Array = NDArray[np.float64]
TABLE = tm.TABLES["gaussian"]
X = tm.covariates(60, 99)


def gate_of(mixture: Mixture[Experts]) -> Array:
    assert isinstance(mixture.gate, SoftmaxGate)
    return mixture.gate.coefficients


def solved(method: TableMethod, locals_: Sequence[Local], family: str = "gaussian") -> Mixture[Experts]:
    return method.solve(tm.TABLES[family], locals_).mixture


# Aligned average.


def nearest_order(local: Local, family: str) -> tuple[int, ...]:
    """The permutation that brings a machine's parameters nearest to the truth's, of all there are."""
    whole, mixture = tm.truth(family), local.mixture

    def distance(order: tuple[int, ...]) -> float:
        gate = gate_of(mixture)[list(order)]
        own = mixture.experts.coefficients[list(order)] - whole.experts.coefficients
        return float((own**2).sum() + ((gate - gate[-1] - tm.GATE) ** 2).sum())

    return min(itertools.permutations(range(3)), key=distance)


@pytest.mark.parametrize("family", tm.TABLES)
def test_the_average_is_the_mean_of_what_belongs_together(family: str) -> None:
    locals_ = tm.machines(family)
    found = [nearest_order(local, family) for local in locals_]
    rows = np.array([local.rows for local in locals_]) / sum(local.rows for local in locals_)
    moved = [local.mixture.experts.coefficients[list(order)] for local, order in zip(locals_, found, strict=True)]
    wanted = sum(share * b for share, b in zip(rows, moved, strict=True))
    mixture = solved(AlignedAverage(), locals_, family)
    order = nearest_order(replace(locals_[0], mixture=mixture), family)
    assert np.allclose(mixture.experts.coefficients[list(order)], wanted, rtol=0, atol=1e-12)
    gates = [gate_of(local.mixture)[list(order)] for local, order in zip(locals_, found, strict=True)]
    mean = sum(share * (gate - gate[-1]) for share, gate in zip(rows, gates, strict=True))
    composed = gate_of(mixture)[list(order)]
    assert np.allclose(composed - composed[-1], mean, rtol=0, atol=1e-12)
    if TABLE.family == tm.TABLES[family].family:
        variances = [
            local.mixture.experts.parameters()["variances"][list(order)]
            for local, order in zip(locals_, found, strict=True)
        ]
        averaged = sum(share * variance for share, variance in zip(rows, variances, strict=True))
        assert np.allclose(mixture.experts.parameters()["variances"][list(order)], averaged, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_no_machine_would_pair_otherwise_with_the_average(seed: int) -> None:
    sizes = (100, 1000, 100, 1000, 100, 1000, 100)
    locals_ = [
        tm.machine("gaussian", f"m{i}", seed=100 * seed + i, noise=1.5, rows=rows) for i, rows in enumerate(sizes)
    ]
    found = orders(locals_, X)
    aligned = [arranged(local.mixture, order) for local, order in zip(locals_, found, strict=True)]
    average = averaged(aligned, np.array(sizes) / sum(sizes))
    for local, order in zip(locals_, found, strict=True):
        costs = pair_costs(average, local.mixture, X)
        best = min(itertools.permutations(range(3)), key=lambda one: sum(costs[k, one[k]] for k in range(3)))
        assert order == best


def test_gates_tell_experts_apart_that_are_equal() -> None:
    same = GaussianExperts(np.zeros((2, 1, 3)), np.ones((2, 1)))
    one = tm.declared(Mixture(SoftmaxGate(np.array([[1.0, 3.0, 0.0], [0.0, 0.0, 0.0]])), same), "ash", 1)
    other = tm.declared(Mixture(SoftmaxGate(np.array([[0.0, 0.0, 0.0], [1.0, 3.0, 0.0]])), same), "birch", 2)
    gate = gate_of(solved(AlignedAverage(), [one, other]))
    assert np.allclose(np.abs(gate[0] - gate[1]), [1.0, 3.0, 0.0])


@pytest.mark.parametrize("method", [AlignedAverage(), PrecisionAverage(), Middle(), AmbientMixture()])
def test_one_machine_is_its_own_composition(method: TableMethod) -> None:
    local = tm.machine("gaussian", "ash", seed=4)
    mixture = solved(method, [local])
    y = np.linspace(-3, 3, len(X))[:, None]
    assert np.allclose(mixture.log_density(X, y), local.mixture.log_density(X, y), atol=1e-9)


@pytest.mark.parametrize("method", [AlignedAverage(), PrecisionAverage(), Middle(), AmbientMixture()])
def test_a_single_expert_has_no_gate_to_speak_of(method: TableMethod) -> None:
    machines = []
    for seed, party in enumerate(tm.PARTIES):
        experts = GaussianExperts(np.array([[[float(seed), 1.0, 0.0]]]), np.ones((1, 1)))
        machines.append(tm.declared(Mixture(SoftmaxGate(np.zeros((1, 3))), experts), party, seed))
    mixture = solved(method, machines)
    assert np.isfinite(mixture.mean(X)).all()
    if method.name == "aligned_average":
        assert np.allclose(mixture.experts.coefficients, [[[1.5, 1.0, 0.0]]])


# Middle.


def by_pot(f: Mixture[Experts], g: Mixture[Experts], x: Array) -> float:
    """Mean exact transport cost between the gates, row by row with POT's network simplex."""
    cost, own, its = f.experts.divergence(g.experts, x), np.exp(f.log_gate(x)), np.exp(g.log_gate(x))
    return float(np.mean([ot.emd2(a / a.sum(), b / b.sum(), c) for a, b, c in zip(own, its, cost, strict=True)]))


def test_the_middle_is_the_medoid_under_exact_transport() -> None:
    locals_ = [tm.machine("gaussian", party, seed=seed, noise=0.2) for seed, party in enumerate(tm.PARTIES)]
    method = Middle("transport", support=24)
    x = draw_support(locals_, method.support, method.seed)
    shares = np.array([local.rows for local in locals_]) / sum(local.rows for local in locals_)
    totals = [sum(s * by_pot(f.mixture, g.mixture, x) for s, f in zip(shares, locals_, strict=True)) for g in locals_]
    assert np.allclose(total_divergences(locals_, x, "transport"), totals, rtol=1e-6)
    solution = method.solve(TABLE, locals_)
    winner = locals_[int(np.argmin(totals))]
    assert solution.mixture is winner.mixture
    assert f"party '{winner.party}'" in solution.notes[0]


@pytest.mark.parametrize("family", tm.TABLES)
def test_bounds_of_all_pairs_are_those_of_each(family: str) -> None:
    locals_ = tm.machines(family)
    totals = []
    for g in locals_:
        total = sum(f.rows * divergence_bound(f.mixture, g.mixture, X).mean() for f in locals_ if f is not g)
        totals.append(total / sum(local.rows for local in locals_))
    assert np.allclose(total_divergences(locals_, X), totals, rtol=1e-9)


def test_the_bound_is_one_of_the_divergence_of_densities() -> None:
    f, g = tm.machines("poisson", noise=0.3)[:2]
    counts = np.arange(400.0)[:, None]
    gaps = []
    for row in X:
        here = np.repeat(row[None], len(counts), axis=0)
        own, its = f.mixture.log_density(here, counts), g.mixture.log_density(here, counts)
        gaps.append((np.exp(own) * (own - its)).sum())
    bound = divergence_bound(f.mixture, g.mixture, X)
    assert (np.array(gaps) <= bound + 1e-9).all()


def test_relaxed_totals_are_sums_of_nearest_costs() -> None:
    locals_ = tm.machines("poisson")
    totals = []
    for g in locals_:
        total = 0.0
        for f in locals_:
            cost, own = f.mixture.experts.divergence(g.mixture.experts, X), np.exp(f.mixture.log_gate(X))
            nearest = [own[i, k] * min(cost[i, k]) for i in range(len(X)) for k in range(3)]
            total += f.rows * sum(nearest) / len(X)
        totals.append(total / sum(local.rows for local in locals_))
    assert np.allclose(total_divergences(locals_, X, "relaxed"), totals)


@pytest.mark.parametrize("divergence", ["bound", "transport"])
def test_the_middle_is_not_the_odd_one_out(divergence: str) -> None:
    odd = tm.machine("gaussian", "elm", seed=8, noise=3.0)
    method = Middle(divergence, support=40)  # type: ignore[arg-type]
    assert "'elm'" not in method.solve(TABLE, [*tm.machines("gaussian")[:3], odd]).notes[0]


def test_a_machine_with_most_rows_is_the_middle() -> None:
    machines = [*tm.machines("gaussian")[:3], tm.machine("gaussian", "elm", seed=8, noise=1.0, rows=10_000)]
    assert "'elm'" in Middle().solve(TABLE, machines).notes[0]


# Precision average.


def fitted(party: str, seed: int, shift: float) -> tuple[Local, Array, Array, Array]:
    """A machine whose experts are exact weighted least squares of rows with known responsibilities."""
    rng = np.random.default_rng(seed)
    x = tm.covariates(90, seed, shift)
    wide = augmented(x)
    tau = rng.dirichlet([0.3, 0.3, 0.3], size=len(x))
    y = np.stack([wide @ [4.0, 1.0, 0.0], wide @ [0.5, 1.0, -1.0]], axis=1) + tau[:, :2] * x**2
    y += rng.normal(size=y.shape)
    experts = GaussianExperts(*weighted_fit(wide, y, tau))
    grams = np.einsum("nk,na,nb->kab", tau, wide, wide)
    gate = tm.GATE + 0.1 * rng.normal(size=tm.GATE.shape)
    mixture: Mixture[Experts] = Mixture(SoftmaxGate(gate), experts)
    local = tm.declared(mixture, party, seed, len(x), shift)
    assert local.precision is not None
    return replace(local, precision=Precision(grams, local.precision.gate_hessian)), wide, y, tau


def weighted_fit(wide: Array, y: Array, tau: Array) -> tuple[Array, Array]:
    """Weighted least squares by numpy's lstsq on scaled rows, and weighted mean squares of what is left."""
    coefficients, variances = [], []
    for weight in tau.T:
        root = np.sqrt(weight)[:, None]
        b = np.linalg.lstsq(wide * root, y * root, rcond=None)[0]
        coefficients.append(b.T)
        variances.append((weight[:, None] * (y - wide @ b) ** 2).sum(axis=0) / weight.sum())
    return np.stack(coefficients), np.stack(variances)


def test_precision_gives_least_squares_of_all_rows_together(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        fitted(party, seed, shift) for seed, (party, shift) in enumerate(zip("abc", (-2.0, 0.0, 3.0), strict=True))
    ]
    together = [np.concatenate([one[place] for one in found]) for place in (1, 2, 3)]
    wanted_b, wanted_s = weighted_fit(*together)
    locals_ = [one[0] for one in found]
    # the labels of these rows are known; alignment is judged elsewhere
    monkeypatch.setattr("quiltwork.compose.ordered.orders", lambda given, x: ((0, 1, 2),) * len(given))
    mixture = PrecisionAverage(robust=False).solve(tm.TABLES["gaussian-2"], locals_).mixture
    assert np.allclose(mixture.experts.coefficients, wanted_b, rtol=1e-9, atol=1e-9)
    assert np.allclose(mixture.experts.parameters()["variances"], wanted_s, rtol=1e-9)
    # the plain mean is another thing: machines saw different covariates
    plain = AlignedAverage(robust=False).solve(tm.TABLES["gaussian-2"], locals_).mixture
    assert np.abs(plain.experts.coefficients - wanted_b).max() > 0.05


def test_the_gate_minimises_the_machines_quadratics() -> None:
    locals_ = tm.machines("gaussian", noise=0.3)
    found = orders(locals_, draw_support(locals_, 200, 0))
    mixture = solved(PrecisionAverage(robust=False), locals_)
    targets, hessians = [], []
    for local, order in zip(locals_, found, strict=True):
        moved = tm.shuffled(local, order)
        assert moved.precision is not None
        gate = gate_of(moved.mixture)
        targets.append((gate - gate[-1])[:-1].ravel())
        hessians.append(moved.precision.gate_hessian)

    def quadratic(a: Array) -> float:
        return float(sum((a - t) @ h @ (a - t) for t, h in zip(targets, hessians, strict=True)))

    oracle = minimize(quadratic, np.mean(targets, axis=0), method="BFGS", options={"gtol": 1e-10}).x
    composed = gate_of(mixture)
    assert np.allclose((composed - composed[-1])[:-1].ravel(), oracle, atol=1e-5)


@settings(max_examples=30)
@given(order=st.permutations(range(3)), seed=st.integers(0, 99))
def test_a_hessian_in_another_order_is_the_same_quadratic_form(order: list[int], seed: int) -> None:
    local = tm.machine("gaussian", "ash", seed=seed)
    moved = tm.shuffled(local, order)
    assert local.precision is not None
    assert moved.precision is not None
    mine = reordered(local.precision, order)
    assert np.allclose(mine.gate_hessian, moved.precision.gate_hessian, rtol=1e-9, atol=1e-9)
    assert np.array_equal(mine.expert_grams, moved.precision.expert_grams)
    # the oracle of both: the Hessian at the mixture with moved labels, summed row by row
    x = tm.covariates(local.rows, seed)
    assert np.allclose(mine.gate_hessian, tm.precision_of(moved.mixture, x).gate_hessian, rtol=1e-9, atol=1e-9)


def test_directions_that_no_row_determines_keep_the_plain_mean() -> None:
    flat = []
    for local in tm.machines("gaussian")[:2]:
        assert local.precision is not None
        grams, hessian = local.precision.expert_grams.copy(), local.precision.gate_hessian.reshape(2, 3, 2, 3).copy()
        grams[:, 2], grams[:, :, 2], hessian[:, 2], hessian[:, :, :, 2] = 0.0, 0.0, 0.0, 0.0
        flat.append(replace(local, precision=Precision(grams, hessian.reshape(6, 6))))
    composed, plain = solved(PrecisionAverage(), flat), solved(AlignedAverage(), flat)
    assert np.allclose(composed.experts.coefficients[:, :, 2], plain.experts.coefficients[:, :, 2])
    assert np.allclose(gate_of(composed)[:, 2], gate_of(plain)[:, 2])
    assert np.abs(composed.experts.coefficients[:, :, 1] - plain.experts.coefficients[:, :, 1]).max() > 1e-6


def test_an_expert_without_rows_keeps_the_plain_mean() -> None:
    empty = []
    for local in tm.machines("gaussian")[:2]:
        assert local.precision is not None
        empty.append(replace(local, precision=replace(local.precision, expert_grams=np.zeros((3, 3, 3)))))
    composed, plain = solved(PrecisionAverage(), empty), solved(AlignedAverage(), empty)
    assert np.allclose(composed.experts.coefficients, plain.experts.coefficients)
    assert (composed.experts.parameters()["variances"] > 0).all()


# Ambient mixture.


@pytest.mark.parametrize("family", tm.TABLES)
def test_the_ambient_density_is_the_machines_densities_weighted_by_rows(family: str) -> None:
    locals_ = tm.machines(family)
    mixture = solved(AmbientMixture(), locals_, family)
    rng = np.random.default_rng(0)
    y, _ = tm.truth(family).sample(X, rng)
    rows = np.array([local.rows for local in locals_], dtype=float)
    each = np.stack([local.mixture.log_density(X, y) for local in locals_], axis=1)
    wanted = logsumexp(each + np.log(rows / rows.sum()), axis=1)
    assert np.allclose(mixture.log_density(X, y), wanted)
    assert mixture.n_experts == 12


def test_evidence_weights_follow_the_covariates() -> None:
    locals_ = [
        tm.machine("gaussian", party, seed=i, shift=4.0 * i, rows=200 + i) for i, party in enumerate(("ash", "elm"))
    ]
    mixture = solved(AmbientMixture("evidence"), locals_)
    x = np.array([[0.0, 0.0], [2.0, 2.0], [4.0, 4.0]])
    densities = []
    for local in locals_:
        assert local.covariates is not None
        parts = local.covariates.parts
        normal = [multivariate_normal(part.mean, part.covariance, allow_singular=True) for part in parts]
        density = sum(part.count * one.pdf(x) for part, one in zip(parts, normal, strict=True))
        densities.append(local.rows * density / local.covariates.count)
    weights = np.stack(densities, axis=1)
    weights /= weights.sum(axis=1, keepdims=True)
    wanted = sum(weights[:, [m]] * local.mixture.mean(x) for m, local in enumerate(locals_))
    assert np.allclose(mixture.mean(x), wanted, atol=0.02)
    assert weights[0, 0] > 0.99
    assert weights[2, 1] > 0.99


# Bad fits.


@pytest.mark.parametrize("kind", [AlignedAverage, PrecisionAverage])
def test_a_bad_fit_changes_nothing(kind: type[AlignedAverage] | type[PrecisionAverage]) -> None:
    good = [tm.machine("gaussian", f"m{i}", seed=i) for i in range(6)]
    bad = tm.machine("gaussian", "zinc", seed=50, noise=6.0)
    solution = kind().solve(TABLE, [*good, bad])
    assert list(solution.excluded) == ["zinc"]
    assert "nats a row" in solution.excluded["zinc"]
    clean = solved(kind(), good)
    assert np.array_equal(solution.mixture.experts.coefficients, clean.experts.coefficients)
    assert np.array_equal(gate_of(solution.mixture), gate_of(clean))
    spoiled = solved(kind(robust=False), [*good, bad])
    assert np.abs(spoiled.experts.coefficients - clean.experts.coefficients).max() > 0.01


# Support.


def test_support_is_drawn_in_proportion_and_by_party() -> None:
    locals_ = [
        tm.machine("gaussian", party, seed=i, rows=rows)
        for i, (party, rows) in enumerate(zip("abc", (100, 300, 10), strict=True))
    ]
    x = draw_support(locals_, 82, seed=3)
    assert x.shape == (82, 2)
    assert np.array_equal(x, draw_support(locals_, 82, seed=3))
    assert not np.array_equal(x, draw_support(locals_, 82, seed=4))
    alone = draw_support(locals_[:1], 20, seed=3)
    assert np.array_equal(x[:20], alone), "who else takes part changes a party's rows"
    assert not np.array_equal(alone, draw_support([tm.renamed(locals_[0], "z")], 20, seed=3))
    assert draw_support(locals_, 1, seed=0).shape == (3, 2), "everyone is asked at least once"


def test_support_has_the_law_of_the_summaries() -> None:
    local = tm.machine("gaussian", "ash", seed=1, rows=400, shift=5.0)
    assert local.covariates is not None
    x = draw_support([local], 20_000, seed=0)
    assert np.allclose(x.mean(axis=0), local.covariates.mean, atol=0.05)
    assert np.allclose(np.cov(x.T, bias=True), local.covariates.covariance, atol=0.05)
