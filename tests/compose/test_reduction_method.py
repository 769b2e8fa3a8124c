"""The reduction of machines' fits: what it recovers, what it needs, what it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from reduction_machines import FAMILIES, D, machines, spoiled, table_of, truth_of, with_precision

from quiltwork.compose.home import home_rows
from quiltwork.compose.reduction import Reduction, choose_n_experts, free_parameters
from quiltwork.compose.support import draw_support
from quiltwork.errors import InvalidOption, MissingPart
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.transport import divergence_bound

X = np.random.default_rng(9).normal(size=(300, D))


def distance(truth: Mixture, found: Mixture) -> float:  # type: ignore[type-arg]
    return float(divergence_bound(truth, found, X).mean())


@pytest.mark.parametrize("weights", ["rows", "evidence"])
@pytest.mark.parametrize("family", FAMILIES)
def test_it_is_nearer_to_the_truth_than_any_machine(family: str, weights: str) -> None:
    locals_, truth = machines(family), truth_of(family)
    solution = Reduction(3, support=2000, weights=weights).solve(table_of(family), locals_)  # type: ignore[arg-type]
    alone = [distance(truth, local.mixture) for local in locals_]
    assert distance(truth, solution.mixture) < min(alone)
    assert solution.excluded == {}
    assert solution.notes == ()
    assert all(a >= b for a, b in zip(solution.objective, solution.objective[1:], strict=False))


@pytest.mark.parametrize("family", FAMILIES)
def test_copies_are_returned_as_they_are(family: str) -> None:
    one = machines(family, 1)[0]
    copies = [replace(one, party=name) for name in "abc"]
    found = Reduction(3, support=600).solve(table_of(family), copies).mixture
    y, _ = one.mixture.sample(X, np.random.default_rng(0))
    np.testing.assert_allclose(found.log_density(X, y), one.mixture.log_density(X, y), atol=1e-7)


def test_one_machine_is_returned_as_it_is() -> None:
    one = machines(count=1)
    found = Reduction(3, support=600).solve(table_of("gaussian"), one).mixture
    assert distance(one[0].mixture, found) < 1e-9


def test_the_same_machines_give_the_same_bytes_in_any_order_nearly() -> None:
    locals_ = machines(count=5)
    method = Reduction(3, support=800)
    one, two = (method.solve(table_of("gaussian"), locals_).mixture for _ in range(2))
    assert one.experts.coefficients.tobytes() == two.experts.coefficients.tobytes()
    turned = method.solve(table_of("gaussian"), locals_[::-1]).mixture
    y, _ = one.sample(X, np.random.default_rng(0))
    np.testing.assert_allclose(one.log_density(X, y), turned.log_density(X, y), atol=1e-6)


def test_public_rows_need_no_summaries() -> None:
    locals_ = [replace(local, covariates=None) for local in machines()]
    public = tuple(map(tuple, X.tolist()))
    method = Reduction(3, support=public, weights="rows")
    assert method.needs() == {"mixture"}
    assert distance(truth_of("gaussian"), method.solve(table_of("gaussian"), locals_).mixture) < 0.02
    with pytest.raises(InvalidOption, match="3 columns"):
        Reduction(3, support=((1.0, 2.0),), weights="rows").solve(table_of("gaussian"), locals_)
    evidence = Reduction(3, support=public)
    assert evidence.needs() == {"mixture", "covariates"}
    assert distance(truth_of("gaussian"), evidence.solve(table_of("gaussian"), machines()).mixture) < 0.02


def test_a_missing_summary_or_precision_is_named() -> None:
    locals_ = [*machines(count=3), replace(machines(count=1)[0], party="bare", covariates=None)]
    with pytest.raises(MissingPart, match="bare"):
        Reduction(3).solve(table_of("gaussian"), locals_)
    method = Reduction(3, support=500, experts="precision")
    assert method.needs() == {"mixture", "covariates", "precision"}
    with pytest.raises(MissingPart, match="m0"):
        method.solve(table_of("gaussian"), machines(count=3))
    with pytest.raises(InvalidOption, match="poisson"):
        method.solve(table_of("poisson"), machines("poisson", 3))


def test_precision_pools_what_the_transport_aligned() -> None:
    locals_ = [with_precision(local) for local in machines()]
    found = Reduction(3, support=1000, experts="precision").solve(table_of("gaussian"), locals_)
    assert distance(truth_of("gaussian"), found.mixture) < 0.02


def test_the_shortest_description_finds_the_number_of_experts() -> None:
    locals_ = machines(count=6)
    split = [
        replace(
            local,
            mixture=replace(
                local.mixture,
                gate=local.mixture.gate.select([0, 1, 2, 2]),
                experts=local.mixture.experts.select([0, 1, 2, 2]),
            ),  # type: ignore[attr-defined]
        )
        for local in locals_
    ]
    solution = Reduction(support=1000).solve(table_of("gaussian"), split)
    assert solution.mixture.n_experts == 3
    assert "3 experts have the shortest description" in solution.notes[0]


def test_owners_can_choose_the_number_of_experts_by_their_likelihoods() -> None:
    locals_, truth = machines(count=6), truth_of("gaussian")
    path = Reduction(support=1000).path(table_of("gaussian"), locals_)
    assert set(path) == {1, 2, 3}
    y, _ = truth.sample(X, np.random.default_rng(0))
    answers = [{k: float(m.log_density(X, y).sum()) for k, m in path.items()} for _ in range(2)]
    assert choose_n_experts(path, answers, 600) == 3
    with pytest.raises(InvalidOption, match="one number for each candidate"):
        choose_n_experts(path, [{1: 0.0}], 600)


def test_free_parameters_are_counted() -> None:
    assert free_parameters(truth_of("gaussian")) == 3 * 4 + 3 + 2 * 4
    assert free_parameters(truth_of("multinomial")) == 3 * 2 * 4 + 2 * 4
    assert free_parameters(truth_of("poisson")) == 3 * 4 + 2 * 4


def test_experts_without_weight_are_reported() -> None:
    one = machines(count=1)[0]
    copies = [replace(one, party=name) for name in "abc"]
    solution = Reduction(5, support=600, gate="projection").solve(table_of("gaussian"), copies)
    assert "the others received no weight" in " ".join(solution.notes)
    assert distance(one.mixture, solution.mixture) < 1e-6


@pytest.mark.parametrize(
    "options",
    [
        {"n_experts": 0},
        {"n_experts": True},
        {"support": 0},
        {"gate": "other"},
        {"weights": "other"},
        {"experts": "other"},
        {"starts": 0},
        {"max_iterations": 0},
        {"tolerance": -1.0},
        {"seed": -1},
    ],
)
def test_options_outside_their_domain_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOption):
        Reduction(**options)  # type: ignore[arg-type]


def test_home_rows_have_the_declared_moments_and_are_each_partys_own() -> None:
    locals_ = machines(count=4, shift=1.0)
    rows = home_rows(locals_, 400, 0)
    for local, x in zip(locals_, rows, strict=True):
        assert local.covariates is not None
        np.testing.assert_allclose(x.mean(axis=0), local.covariates.mean, atol=1e-10)
        np.testing.assert_allclose(np.cov(x.T, bias=True), local.covariates.covariance, atol=1e-10)
    drawn = draw_support(locals_[:1], 100, 0)
    assert np.abs(drawn.mean(axis=0) - rows[0].mean(axis=0)).max() > 1e-3
    np.testing.assert_array_equal(home_rows(locals_[:3], 300, 0)[1], rows[1])


def test_machines_that_see_different_covariates_count_where_they_are() -> None:
    """A machine that is wrong far from its rows does harm where it has none, unless weights follow x."""
    locals_, truth = machines(count=6, shift=3.0), truth_of("gaussian")
    bent = []
    for local in locals_:
        assert local.covariates is not None
        experts, centre = local.mixture.experts, local.covariates.mean
        assert isinstance(experts, GaussianExperts)
        b = experts.coefficients.copy()
        tilt = np.array([-2.0 * centre[0], 2.0, 0.0, 0.0]) * 0.1 * np.sign(centre[0])
        bent.append(replace(local, mixture=Mixture(local.mixture.gate, GaussianExperts(b + tilt, experts.variances))))
    found = {
        weights: Reduction(3, support=3000, weights=weights, robust=False).solve(table_of("gaussian"), bent).mixture  # type: ignore[arg-type]
        for weights in ("rows", "evidence")
    }
    x = np.concatenate(home_rows(locals_, 1200, 3))
    lost = {name: float(divergence_bound(truth, mixture, x).mean()) for name, mixture in found.items()}
    assert lost["evidence"] < lost["rows"]


def test_a_spoiled_fit_changes_nothing() -> None:
    locals_, truth = machines(), truth_of("gaussian")
    bad = [*locals_[:-1], spoiled(locals_[-1])]
    method = Reduction(3, support=1000)
    with_bad, without = method.solve(table_of("gaussian"), bad), method.solve(table_of("gaussian"), locals_[:-1])
    assert set(with_bad.excluded) == {"m7"}
    assert "nats a row" in with_bad.excluded["m7"]
    y, _ = truth.sample(X, np.random.default_rng(0))
    np.testing.assert_allclose(with_bad.mixture.log_density(X, y), without.mixture.log_density(X, y), atol=1e-9)
    careless = replace(method, robust=False).solve(table_of("gaussian"), bad)
    assert distance(truth, careless.mixture) > 5 * distance(truth, with_bad.mixture)
