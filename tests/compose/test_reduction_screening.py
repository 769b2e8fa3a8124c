"""Screening: bad fits are named, honest ones stay, whatever their covariates, sizes or company."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from reduction_machines import FAMILIES, D, machines, noisy, spoiled, table_of, truth_of

from quiltwork.compose.reduction import Reduction
from quiltwork.compose.screening import screen
from quiltwork.errors import InvalidOption
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.gates import ConstantWeights
from quiltwork.models.mixture.local import Local
from quiltwork.models.mixture.machine_weights import EvidenceWeights
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.neighbours import gaps
from quiltwork.models.mixture.pool import everywhere
from quiltwork.models.mixture.transport import divergence_bound

X = np.random.default_rng(2).normal(size=(200, D))


def screened(locals_: list[Local], x: np.ndarray = X) -> set[str]:
    return set(screen(locals_, x, evidence(locals_)))


def evidence(locals_: list[Local]) -> EvidenceWeights:
    summaries = tuple(local.covariates for local in locals_ if local.covariates is not None)
    return EvidenceWeights(summaries, np.ones(len(locals_)))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", [4, 9])
def test_honest_machines_stay(family: str, count: int) -> None:
    """At most one of a hundred is left out by bad luck, and the same fits with one spoiled lose no other."""
    draws = [machines(family, count, seed=seed) for seed in range(12)]
    assert sum(len(screened(locals_)) for locals_ in draws) <= 0.01 * 12 * count
    for seed, locals_ in enumerate(draws[:4]):
        assert screened([spoiled(locals_[0], seed), *locals_[1:]]) <= {"m0"}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", [3, 4, 8])
def test_a_spoiled_fit_is_found_in_small_company(family: str, count: int) -> None:
    locals_ = machines(family, count)
    assert screened([spoiled(locals_[0]), *locals_[1:]]) == {"m0"}


def test_two_machines_cannot_judge_each_other() -> None:
    locals_ = machines(count=2)
    assert screened([spoiled(locals_[0]), locals_[1]]) == set()


def test_machines_are_not_judged_where_they_saw_nothing() -> None:
    """Fits that agree with their neighbours, and with nobody far away, stay; judged everywhere they would not."""
    rng, locals_ = np.random.default_rng(3), []
    for m in range(9):
        centre = 4.0 * m if m else -200.0
        x = rng.normal(size=(300, D)) * 2
        x[:, 0] += centre
        mixture = noisy(truth_of("gaussian"), 2000, rng)
        wild = np.array([0.0, 3.0, 0, 0]) * (m == 0) - np.array([3.0 * centre, 0, 0, 0]) * (m == 0)
        experts = GaussianExperts(mixture.experts.coefficients + wild, mixture.experts.variances)
        locals_.append(Local(f"m{m}", "d", "none", Mixture(mixture.gate, experts), 2000, CovariateSummary.from_rows(x)))
    at = np.concatenate([local.covariates.sample(40, rng) for local in locals_ if local.covariates is not None])
    assert set(screen(locals_, at, evidence(locals_))) == set()
    assert "m0" in set(screen(locals_, at[40:]))


def test_a_group_that_agrees_stays() -> None:
    locals_ = machines(count=12)
    other = truth_of("gaussian", 77)
    rng = np.random.default_rng(4)
    mixed = [*locals_[:8], *(replace(local, mixture=noisy(other, 2000, rng)) for local in locals_[8:])]
    assert screened(mixed) == set()


def test_small_machines_are_allowed_more() -> None:
    rng, locals_ = np.random.default_rng(5), machines(count=9)
    noise = noisy(truth_of("gaussian"), 60, rng)
    assert screened([replace(locals_[0], mixture=noise), *locals_[1:]]) == {"m0"}
    assert screened([replace(locals_[0], mixture=noise, rows=60), *locals_[1:]]) == set()


def test_a_fit_that_did_not_converge_is_held_to_less() -> None:
    rng, locals_ = np.random.default_rng(6), machines(count=9, rows=100)
    for rows in range(5, 100, 2):
        noise = replace(locals_[0], mixture=noisy(truth_of("gaussian"), rows, rng))
        settled, unsettled = (
            screen([replace(noise, converged=converged), *locals_[1:]], X) for converged in (True, False)
        )
        assert set(settled) <= set(unsettled)
        if set(unsettled) - set(settled):
            assert "had not converged" in unsettled["m0"]
            return
    pytest.fail("no fit was left out for not having converged")


def test_impossible_fits_are_refused_outright() -> None:
    locals_ = machines(count=5)
    experts: Any = locals_[0].mixture.experts
    infinite = GaussianExperts(np.where(np.ones_like(experts.coefficients), np.inf, 0), experts.variances)
    collapsed = GaussianExperts(experts.coefficients, experts.variances * np.array([[1e-12], [1], [1]]))
    found = screen(
        [
            replace(locals_[0], mixture=Mixture(locals_[0].mixture.gate, infinite)),
            replace(locals_[1], mixture=Mixture(locals_[0].mixture.gate, collapsed)),
            *locals_[2:],
        ],
        X,
    )
    assert "not finite" in found["m0"]
    assert "collapsed" in found["m1"]


def test_where_every_fit_is_impossible_the_reduction_is_refused() -> None:
    locals_ = machines(count=2)
    experts: Any = locals_[0].mixture.experts
    huge = GaussianExperts(np.full_like(experts.coefficients, 1e200), experts.variances)
    overflowing = [replace(one, mixture=Mixture(one.mixture.gate, huge)) for one in locals_]
    with pytest.raises(InvalidOption, match=r"none of them.*m0.*m1"):
        Reduction().solve(table_of("gaussian"), overflowing)


def test_a_majority_remains() -> None:
    locals_ = machines(count=7)
    bad = [spoiled(local, 10 * m) for m, local in enumerate(locals_)]
    assert len(screened([*bad[:5], *locals_[5:]])) <= 3


def test_gaps_are_the_mean_of_both_bounds() -> None:
    locals_ = machines(count=3)
    pool = everywhere([local.mixture for local in locals_], ConstantWeights(np.ones(3)), X)
    weights = np.random.default_rng(7).uniform(0.5, 1, size=(len(X), 3))
    found = gaps(pool, weights)
    f, g = locals_[0].mixture, locals_[2].mixture
    shared = weights[:, 0] * weights[:, 2]
    both = 0.5 * (divergence_bound(f, g, X) + divergence_bound(g, f, X))
    assert found[0, 2] == pytest.approx((shared * both).sum() / shared.sum(), rel=1e-8)
    assert found[2, 0] == found[0, 2]
    assert np.isnan(found.diagonal()).all()


def test_fits_with_too_few_experts_are_judged_by_the_others() -> None:
    locals_ = machines(count=9)
    blend = replace(
        locals_[0].mixture,
        gate=locals_[0].mixture.gate.select([0, 1]),
        experts=locals_[0].mixture.experts.select([0, 1]),
    )  # type: ignore[attr-defined]
    mixed = [*(replace(local, mixture=blend) for local in locals_[:3]), *locals_[3:]]
    solution = Reduction(3, support=1000).solve(table_of("gaussian"), mixed)
    assert set(solution.excluded) == {"m0", "m1", "m2"}
    assert "its 2 experts" in solution.excluded["m0"]
    assert divergence_bound(truth_of("gaussian"), solution.mixture, X).mean() < 0.02
