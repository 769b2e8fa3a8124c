"""TIES and DARE against the papers' formulas, written out entry by entry in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption
from quiltwork.models.merging import Change, Dare, Linear, Ties, check_rule, kept_entries

Array = NDArray[np.float64]


def deltas(shape: tuple[int, ...], count: int, seed: int = 0) -> list[Array]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal(shape) for _ in range(count)]


def changes(found: list[Array], weights: list[float] | None = None) -> list[Change]:
    names = ["ash", "birch", "cedar", "elm"]
    return [
        Change(names[i], weights[i] if weights else 1.0, torch.from_numpy(delta.copy()))
        for i, delta in enumerate(found)
    ]


def trimmed(delta: Array, density: float) -> Array:
    """The paper's step 1, on one tensor: the largest entries by magnitude, the others zero."""
    keep = int(density * delta.size)
    order = sorted(range(delta.size), key=lambda i: -abs(delta.flat[i]))[:keep]
    result = np.zeros_like(delta)
    for i in order:
        result.flat[i] = delta.flat[i]
    return result


def elected_mean(found: list[Array], weights: list[float]) -> Array:
    """Steps 2 and 3, entry by entry: the sign with more mass, then the mean over those who have it."""
    result = np.zeros_like(found[0])
    for place in np.ndindex(result.shape):
        values = [delta[place] for delta in found]
        sign = 1.0 if sum(values) >= 0 else -1.0
        agreeing = [w * v for w, v in zip(weights, values, strict=True) if v * sign > 0]
        result[place] = sum(agreeing) / len(agreeing) if agreeing else 0.0
    return result


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [2.0, 0.5, 1.0]])
def test_ties_is_the_paper_s_three_steps(density: float, weights: list[float]) -> None:
    found = deltas((7, 5), 3)
    expected = 0.7 * elected_mean([trimmed(d, density) for d in found], weights)
    merged = Ties(density, scale=0.7).merge("w", changes(found, weights))
    np.testing.assert_allclose(merged.numpy(), expected, rtol=1e-12, atol=0)


def test_the_oracle_tells_ties_from_a_plain_mean() -> None:
    found = deltas((7, 5), 3)
    merged = Ties(1.0).merge("w", changes(found))
    assert not np.allclose(merged.numpy(), np.mean(found, axis=0))


def test_an_entry_that_all_trimmed_stays_the_base_s() -> None:
    found = [np.array([3.0, 0.1, 0.1, 0.1]), np.array([2.0, 0.1, -0.1, 0.1])]
    assert Ties(0.25).merge("w", changes(found)).tolist() == [2.5, 0.0, 0.0, 0.0]


def masks(density: float, names: list[str], shape: tuple[int, ...], tensor: str, seed: int) -> list[NDArray[np.bool_]]:
    return [kept_entries(seed, name, tensor, shape, density) for name in names]


@pytest.mark.parametrize("elect", [False, True])
def test_dare_drops_rescales_and_merges(elect: bool) -> None:
    found, weights = deltas((6, 9), 3), [1.0, 2.0, 0.5]
    drawn = masks(0.4, ["ash", "birch", "cedar"], (6, 9), "w", 3)
    kept = [np.where(mask, delta / 0.4, 0.0) for mask, delta in zip(drawn, found, strict=True)]
    expected = elected_mean(kept, weights) if elect else sum(w * d for w, d in zip(weights, kept, strict=True))
    merged = Dare(0.4, elect=elect, scale=1.5, seed=3).merge("w", changes(found, weights))
    np.testing.assert_allclose(merged.numpy(), 1.5 * np.asarray(expected), rtol=1e-12, atol=1e-15)


def test_dare_s_masks_are_fair_and_independent() -> None:
    one, other = (kept_entries(0, party, "w", (400, 500), 0.3) for party in ("ash", "birch"))
    for mask in (one, other):
        assert abs(mask.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / mask.size)
    assert abs((one & other).mean() - 0.09) < 5 * np.sqrt(0.09 * 0.91 / one.size)
    assert not np.array_equal(one, kept_entries(0, "ash", "v", (400, 500), 0.3))
    assert not np.array_equal(one, kept_entries(1, "ash", "w", (400, 500), 0.3))


def test_dare_keeps_its_expectation() -> None:
    found = deltas((4, 4), 2)
    mean = np.mean([Dare(0.5, scale=1.0, seed=s).merge("w", changes(found)).numpy() for s in range(4000)], axis=0)
    # standard deviation of one entry's mean: |delta| / sqrt(4000) at density 1/2, both parties together
    bound = 5 * np.sqrt(sum(d**2 for d in found) / 4000)
    assert (np.abs(mean - sum(found)) < bound).all()


@pytest.mark.parametrize("rule", [Dare(0.5, seed=1), Dare(0.5, elect=True), Ties(0.5)])
def test_no_rule_reads_or_moves_the_process_s_generator(rule: Dare | Ties) -> None:
    found = changes(deltas((5, 5), 2))
    torch.manual_seed(0)
    first = rule.merge("w", found)
    state = torch.get_rng_state()
    torch.manual_seed(99)
    assert torch.equal(first, rule.merge("w", found))
    torch.manual_seed(0)
    assert torch.equal(state, torch.get_rng_state())


def test_a_linear_rule_sums_to_one_or_scales() -> None:
    weights = {"ash": 1.0, "birch": 3.0}
    assert sum(Linear().coefficients(weights).values()) == 1.0
    assert Linear(0.3).coefficients(weights) == {"ash": 0.3, "birch": 0.3 * 3.0}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"scale": 0.0}, "scale=0.0"),
        ({"scale": float("inf")}, "scale=inf"),
        ({"scale": float("nan")}, "scale=nan"),
        ({"scale": 1.0, "density": 0.0}, "density=0.0"),
        ({"scale": 1.0, "density": 1.1}, "density=1.1"),
    ],
)
def test_options_outside_their_domain_are_refused(options: dict[str, float], what: str) -> None:
    with pytest.raises(InvalidOption, match=what):
        check_rule(**options)
