"""The choice between two gates: against the mean log-likelihood on many responses of the pool, drawn here."""

from __future__ import annotations

import numpy as np
import pytest

from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.gate_choice import DRAWS, MARGIN, not_behind
from quiltwork.models.mixture.gates import ConstantWeights, SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.pool import Pool, at_home, everywhere
from quiltwork.models.mixture.reduction import reduce_mixtures


def lines(slopes: list[float], gate: list[list[float]], noise: float = 0.1) -> Mixture[Experts]:
    experts = GaussianExperts(np.array([[[0.0, slope]] for slope in slopes]), np.full((len(slopes), 1), noise))
    return Mixture(SoftmaxGate(np.array(gate)), experts)


def gap_by_brute_force(
    machines: list[Mixture[Experts]], x: np.ndarray, one: Mixture[Experts], other: Mixture[Experts]
) -> float:
    """Mean of log one - log other over responses of all machines at all rows, raw units."""
    rng = np.random.default_rng(5)
    values = []
    for machine in machines:
        many = np.repeat(x, 50, axis=0)
        y, _ = machine.sample(many, rng)
        values.append((one.log_density(many, y) - other.log_density(many, y)).mean())
    return float(np.mean(values))


def pooled(machines: list[Mixture[Experts]], x: np.ndarray) -> Pool:
    return everywhere(machines, ConstantWeights(np.ones(len(machines))), x)


@pytest.mark.parametrize("tilt", [0.0, 0.05, 0.5, 3.0])
def test_the_choice_is_that_of_brute_force(tilt: float) -> None:
    x = np.random.default_rng(0).normal(size=(200, 1))
    machines = [lines([1.0, -1.0], [[0.0, 2.0], [0.0, 0.0]]) for _ in range(3)]
    good, tilted = machines[0], lines([1.0, -1.0], [[tilt, 2.0], [0.0, 0.0]])
    pool = pooled(machines, x)
    gap = gap_by_brute_force(machines, x, tilted, good)
    assert abs(gap + MARGIN) > 0.005  # else the case would test the draw
    assert not_behind(pool, pool.units.to(tilted), pool.units.to(good)) == (gap > -MARGIN)
    assert not_behind(pool, pool.units.to(good), pool.units.to(tilted))


def test_machines_count_by_their_weight_and_at_their_own_rows() -> None:
    left, right = lines([1.0], [[0.0, 0.0]]), lines([-1.0], [[0.0, 0.0]])
    homes = [np.full((20, 1), -2.0), np.full((20, 1), 2.0)]
    for shares, first in (((9.0, 1.0), True), ((1.0, 9.0), False)):
        pool = at_home([left, right], np.array(shares), homes)
        assert not_behind(pool, pool.units.to(left), pool.units.to(right)) == first
        assert not_behind(pool, pool.units.to(right), pool.units.to(left)) != first


def test_what_is_not_finite_is_behind() -> None:
    good = lines([1.0, -1.0], [[0.0, 2.0], [0.0, 0.0]])
    pool = pooled([good], np.linspace(-1, 1, 9)[:, None])
    broken = lines([1.0, -1.0], [[np.nan, 2.0], [0.0, 0.0]])
    assert not not_behind(pool, broken, pool.units.to(good))


def test_logits_where_machines_share_their_experts_and_a_projection_where_they_pair_in_name_only() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 1))
    alike = [lines([2.0, -2.0], [[0.1 * rng.normal(), 3.0 + 0.3 * rng.normal()], [0.0, 0.0]]) for _ in range(6)]
    assert reduce_mixtures(alike, ConstantWeights(np.ones(6)), x, 2).gate == "logit"
    # each knows one line well and has an expert of next to no weight to pair off with the other line
    apart = [lines([2.0, -2.0], [[7.0, 0.0], [0.0, 0.0]]), lines([2.0, -2.0], [[-2.0, 0.0], [0.0, 0.0]])]
    found = reduce_mixtures(apart, ConstantWeights(np.ones(2)), x, 2)
    forced = reduce_mixtures(apart, ConstantWeights(np.ones(2)), x, 2, gate="logit")
    assert (found.gate, forced.gate) == ("projection", "logit")
    assert gap_by_brute_force(apart, x, found.mixture, forced.mixture) > 0.2


def test_the_draw_is_a_fixed_one() -> None:
    assert DRAWS >= 1000
    good = lines([1.0, -1.0], [[0.0, 2.0], [0.0, 0.0]])
    pool = pooled([good, good], np.linspace(-1, 1, 9)[:, None])
    assert len({not_behind(pool, pool.units.to(good), pool.units.to(good)) for _ in range(3)}) == 1
