"""Machines that join and leave: exact removal, agreement with a reduction, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from transport_draws import draw_mixture, nudged

from quiltwork.errors import DuplicateParty, InvalidOption
from quiltwork.models.mixture.additive import AdditiveReduction
from quiltwork.models.mixture.pool import at_home
from quiltwork.models.mixture.reduction import reduce_pool

RNG = np.random.default_rng(30)
TRUTH = draw_mixture("gaussian two outputs", RNG)
MACHINES = {name: nudged(TRUTH, RNG, 0.05) for name in "abcd"}
ROWS = {name: RNG.normal(size=(200, 2)) + i / 4 for i, name in enumerate(MACHINES)}
COUNTS = {name: 1e7 * (i + 1) for i, name in enumerate(MACHINES)}
POOL = at_home(list(MACHINES.values()), np.array(list(COUNTS.values())), list(ROWS.values()))
REDUCED = reduce_pool(POOL, 3).mixture


def made_of(names: str) -> AdditiveReduction:
    now = AdditiveReduction.around(REDUCED, np.concatenate(list(ROWS.values())))
    for name in names:
        now = now.joined_by(name, MACHINES[name], ROWS[name], COUNTS[name])
    return now


def test_all_machines_make_the_reduction_again() -> None:
    found = made_of("abcd").mixture()
    np.testing.assert_allclose(found.experts.coefficients, REDUCED.experts.coefficients, atol=1e-4)
    np.testing.assert_allclose(found.experts.variances, REDUCED.experts.parameters()["variances"], rtol=1e-4)
    x = np.concatenate(list(ROWS.values()))
    np.testing.assert_allclose(np.exp(found.log_gate(x)), np.exp(REDUCED.log_gate(x)), atol=1e-3)


def test_leaving_is_never_having_joined_to_the_last_bit() -> None:
    left, never = made_of("abcd").without("c").mixture(), made_of("abd").mixture()
    assert left.experts.coefficients.tobytes() == never.experts.coefficients.tobytes()
    assert left.experts.variances.tobytes() == never.experts.variances.tobytes()
    x = ROWS["a"]
    assert left.log_gate(x).tobytes() == never.log_gate(x).tobytes()
    assert np.abs(left.experts.coefficients - made_of("abcd").mixture().experts.coefficients).max() > 1e-4


def test_order_of_joining_does_not_matter() -> None:
    one, two = made_of("abcd").mixture(), made_of("dbca").mixture()
    assert one.experts.coefficients.tobytes() == two.experts.coefficients.tobytes()


def test_a_machine_with_too_few_experts_says_nothing_of_the_gate() -> None:
    few = draw_mixture("gaussian two outputs", np.random.default_rng(1), 2)
    alone = made_of("").joined_by("z", few, ROWS["a"], 100.0).mixture()
    x = ROWS["a"]
    np.testing.assert_allclose(alone.log_gate(x), REDUCED.log_gate(x), atol=1e-9)


def test_refusals() -> None:
    now = made_of("a")
    with pytest.raises(DuplicateParty):
        now.joined_by("a", MACHINES["a"], ROWS["a"], 1.0)
    with pytest.raises(InvalidOption, match="not joined"):
        now.without("b")
    with pytest.raises(InvalidOption, match="no machine"):
        now.without("a").mixture()
    with pytest.raises(InvalidOption, match="linear"):
        AdditiveReduction.around(draw_mixture("poisson", np.random.default_rng(0)), ROWS["a"])
