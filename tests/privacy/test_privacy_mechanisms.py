"""Noise: its distribution, its grid, where its randomness comes from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from quiltwork.errors import InvalidOption
from quiltwork.privacy import mechanisms

LAWS = {"laplace": stats.laplace, "gaussian": stats.norm}


def noise(name: str, values: object, amount: float, seed: int | None = None) -> np.ndarray:
    rng = None if seed is None else np.random.default_rng(seed)
    return getattr(mechanisms, name)(values, amount, rng)


@pytest.mark.parametrize("name", LAWS)
def test_the_noise_has_its_law_up_to_the_grid(name: str) -> None:
    released = noise(name, np.full(20000, 100.0), 12.0, seed=1)
    # spread each grid cell out again, so that a test of a continuous law applies
    spread = released + np.random.default_rng(2).uniform(-1, 1, released.shape)  # the grid is 2
    assert stats.kstest(spread, LAWS[name](loc=100.0, scale=12.0).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("name", "other"), [("laplace", "gaussian"), ("gaussian", "laplace")])
def test_negative_control_the_test_of_the_law_tells_them_apart(name: str, other: str) -> None:
    released = noise(name, np.full(20000, 100.0), 12.0, seed=1)
    spread = released + np.random.default_rng(2).uniform(-1, 1, released.shape)
    assert stats.kstest(spread, LAWS[other](loc=100.0, scale=12.0).cdf).pvalue < 1e-6
    assert stats.kstest(spread, LAWS[name](loc=100.0, scale=13.5).cdf).pvalue < 1e-6


@pytest.mark.parametrize("name", LAWS)
@settings(deadline=None)
@given(amount=st.floats(1e-6, 1e6), value=st.floats(-1e6, 1e6), seed=st.integers(0, 2**32))
def test_everything_released_lies_on_the_grid(name: str, amount: float, value: float, seed: int) -> None:
    grid = mechanisms.noise_grid("scale", amount)
    assert math.frexp(grid)[0] == 0.5
    assert amount / 8 < grid <= amount / 4
    released = noise(name, [value, -value, 0.0], amount, seed)
    assert (released / grid == np.rint(released / grid)).all()


def test_negative_control_plain_noise_is_not_on_the_grid() -> None:
    grid = mechanisms.noise_grid("scale", 1.0)
    plain = np.random.default_rng(0).laplace(0, 1.0, 100)
    assert (plain / grid != np.rint(plain / grid)).all()


@pytest.mark.parametrize("name", LAWS)
def test_rounding_adds_under_one_per_cent_to_the_variance(name: str) -> None:
    for amount in (1.0, 1.5, 1.999):
        grid = mechanisms.noise_grid("scale", amount)
        assert grid**2 / 12 < 0.01 * LAWS[name](scale=amount).var()


@pytest.mark.parametrize("name", LAWS)
def test_noise_is_never_repeated_and_ignores_numpys_global_seed(name: str) -> None:
    np.random.seed(0)
    first = noise(name, np.zeros(50), 1e3)
    np.random.seed(0)
    second = noise(name, np.zeros(50), 1e3)
    assert not np.array_equal(first, second)
    assert np.array_equal(noise(name, np.zeros(50), 1e3, seed=4), noise(name, np.zeros(50), 1e3, seed=4))


@pytest.mark.parametrize("name", LAWS)
def test_shape_dtype_and_the_input_are_kept(name: str) -> None:
    values = np.arange(6, dtype=np.int64).reshape(2, 3)
    released = noise(name, values, 0.5, seed=0)
    assert released.shape == (2, 3)
    assert released.dtype == np.float64
    assert values.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert noise(name, 3.0, 1.0, seed=0).shape == ()
    assert noise(name, [], 1.0, seed=0).shape == (0,)


@pytest.mark.parametrize(("name", "option"), [("laplace", "scale"), ("gaussian", "sigma")])
@pytest.mark.parametrize("amount", [0.0, -1.0, math.nan, math.inf, 1e-300, 1e300])
def test_an_amount_outside_its_domain_is_refused_by_name(name: str, option: str, amount: float) -> None:
    with pytest.raises(InvalidOption, match=rf"{option}=.*positive, finite.*Choose another {option}"):
        noise(name, [1.0], amount)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_noise_cannot_hide_are_refused(name: str, value: float) -> None:
    with pytest.raises(InvalidOption, match="not finite"):
        noise(name, [0.0, value], 1.0)


def test_the_released_ratio_of_likelihoods_obeys_epsilon() -> None:
    """Two neighbouring values, one Laplace release each: no outcome is likelier than exp(epsilon) allows."""
    epsilon, sensitivity, draws = 1.0, 4.0, 200_000
    scale = sensitivity / epsilon
    first, second = (noise("laplace", np.full(draws, v), scale, seed=int(v)) for v in (0.0, sensitivity))
    outcomes = np.arange(-8.0, 12.0, mechanisms.noise_grid("scale", scale))
    p, q = (np.array([(np.abs(r - o) < 1e-9).mean() for o in outcomes]) for r in (first, second))
    # a ratio's log has a standard error of about sqrt(1/n p + 1/n q); five of them are allowed
    slack = 5 * np.sqrt(1 / (draws * p) + 1 / (draws * q))
    assert (np.abs(np.log(p / q)) <= epsilon + slack).all()
    assert np.abs(np.log(p / q)).max() > 0.8 * epsilon, "the test would not see a violation"
