"""A mixture's answers against brute-force sums over experts, quadrature over y, scipy and Monte Carlo."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad

from quiltwork.models.mixture.design import BLOCK_ROWS
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.experts.multinomial import MultinomialExperts
from quiltwork.models.mixture.experts.poisson import PoissonExperts
from quiltwork.models.mixture.gates import ConstantWeights, PooledGate, SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture

seeds = st.integers(0, 2**32 - 1)


def draw(seed: int, k: int = 3, q: int = 1, d: int = 2) -> Mixture[GaussianExperts]:
    rng = np.random.default_rng(seed)
    experts = GaussianExperts(rng.normal(size=(k, q, 1 + d)) * 2, rng.uniform(0.3, 3, size=(k, q)))
    return Mixture(SoftmaxGate(rng.normal(size=(k, 1 + d))), experts)


def at(x: np.ndarray, mixture: Mixture[GaussianExperts]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, means and deviations of the one-output mixture at one x, by hand."""
    wide = np.concatenate([[1.0], x])
    assert isinstance(mixture.gate, SoftmaxGate)
    odds = np.exp(mixture.gate.coefficients @ wide)
    return odds / odds.sum(), mixture.experts.coefficients[:, 0] @ wide, np.sqrt(mixture.experts.variances[:, 0])


@settings(deadline=None)
@given(seeds, st.integers(1, 4))
def test_density_is_the_sum_over_experts(seed: int, k: int) -> None:
    mixture, rng = draw(seed, k), np.random.default_rng(seed + 1)
    x, y = rng.normal(size=(5, 2)), rng.normal(size=(5, 1)) * 3
    for i in range(5):
        weight, mean, sd = at(x[i], mixture)
        terms = weight * stats.norm.pdf(y[i, 0], mean, sd)
        assert mixture.log_density(x, y)[i] == pytest.approx(np.log(terms.sum()), abs=1e-9)
        np.testing.assert_allclose(mixture.responsibilities(x, y)[i], terms / terms.sum(), atol=1e-9)


@settings(deadline=None, max_examples=10)
@given(seeds)
def test_density_integrates_to_one_and_its_moments_are_mean_and_variance(seed: int) -> None:
    mixture, x = draw(seed), np.random.default_rng(seed + 1).normal(size=(1, 2))
    _, centres, sd = at(x[0], mixture)
    low, high = centres.min() - 12 * sd.max(), centres.max() + 12 * sd.max()

    def moment(power: int) -> float:
        integrand = lambda y: y**power * np.exp(mixture.log_density(x, np.array([[y]])).item())  # noqa: E731
        return float(quad(integrand, low, high, points=sorted(centres), limit=200)[0])

    assert moment(0) == pytest.approx(1, abs=1e-7)
    assert mixture.mean(x).item() == pytest.approx(moment(1), abs=1e-6)
    assert mixture.variance(x).item() == pytest.approx(moment(2) - moment(1) ** 2, rel=1e-5)


def test_discrete_mixtures_sum_to_one_and_have_the_mixed_moments() -> None:
    rng = np.random.default_rng(3)
    gate, x = SoftmaxGate(rng.normal(size=(2, 3))), rng.normal(size=(1, 2))
    counts = Mixture(gate, PoissonExperts(rng.normal(size=(2, 1, 3)) * 0.5))
    y = np.arange(500.0)[:, None]
    p = np.exp(counts.log_density(np.repeat(x, 500, axis=0), y))
    assert p.sum() == pytest.approx(1, abs=1e-10)
    assert counts.mean(x).item() == pytest.approx(p @ y[:, 0])
    assert counts.variance(x).item() == pytest.approx(p @ y[:, 0] ** 2 - (p @ y[:, 0]) ** 2)
    classes = Mixture(gate, MultinomialExperts(rng.normal(size=(2, 3, 3))))
    p = np.exp(classes.log_density(np.repeat(x, 3, axis=0), np.arange(3)))
    np.testing.assert_allclose(classes.mean(x)[0], p, atol=1e-12)
    np.testing.assert_allclose(classes.variance(x)[0], p * (1 - p), atol=1e-12)


def test_blocks_are_invisible() -> None:
    mixture, rng = draw(4, q=2), np.random.default_rng(5)
    n = 2 * BLOCK_ROWS + 7
    x, y = rng.normal(size=(n, 2)), rng.normal(size=(n, 2))
    edges = [0, BLOCK_ROWS - 1, BLOCK_ROWS, n - 1]
    for answer in (mixture.log_density(x, y), mixture.mean(x), mixture.variance(x)):
        assert len(answer) == n
        assert np.isfinite(answer).all()
    np.testing.assert_allclose(mixture.log_density(x, y)[edges], mixture.log_density(x[edges], y[edges]), rtol=1e-12)
    np.testing.assert_allclose(mixture.mean(x)[edges], mixture.mean(x[edges]), rtol=1e-12)
    np.testing.assert_allclose(mixture.variance(x)[edges], mixture.variance(x[edges]), rtol=1e-12)


def test_far_rows_keep_a_finite_density() -> None:
    mixture = draw(6)
    assert np.isfinite(mixture.log_density(np.full((1, 2), 1e6), np.array([[-1e6]]))).all()


def test_one_expert_is_that_expert() -> None:
    mixture, rng = draw(7, k=1), np.random.default_rng(8)
    x, y = rng.normal(size=(6, 2)), rng.normal(size=(6, 1))
    np.testing.assert_allclose(mixture.log_density(x, y), mixture.experts.log_density(x, y)[:, 0], rtol=1e-12)
    np.testing.assert_allclose(mixture.mean(x), mixture.experts.mean(x)[:, 0], rtol=1e-12)


def test_pooling_copies_of_one_mixture_gives_its_density() -> None:
    mixture, rng = draw(9), np.random.default_rng(10)
    x, y = rng.normal(size=(6, 2)), rng.normal(size=(6, 1))
    assert isinstance(mixture.gate, SoftmaxGate)
    gate = PooledGate((mixture.gate, mixture.gate), ConstantWeights(np.array([1.0, 5.0])))
    pooled = Mixture(gate, mixture.experts.select([0, 1, 2, 0, 1, 2]))
    assert pooled.n_experts == 6
    np.testing.assert_allclose(pooled.log_density(x, y), mixture.log_density(x, y), rtol=1e-12)
    np.testing.assert_allclose(pooled.variance(x), mixture.variance(x), rtol=1e-10)


def test_permuting_gate_and_experts_together_changes_nothing_and_apart_it_does() -> None:
    mixture, rng = draw(11), np.random.default_rng(12)
    x, y, order = rng.normal(size=(6, 2)), rng.normal(size=(6, 1)), [2, 0, 1]
    assert isinstance(mixture.gate, SoftmaxGate)
    both = Mixture(mixture.gate.select(order), mixture.experts.select(order))
    np.testing.assert_allclose(both.log_density(x, y), mixture.log_density(x, y), rtol=1e-12)
    half = Mixture(mixture.gate, mixture.experts.select(order))
    assert not np.allclose(half.log_density(x, y), mixture.log_density(x, y))


def test_samples_follow_the_density_and_name_their_expert() -> None:
    mixture = draw(13)
    x = np.repeat([[0.4, -0.3]], 5000, axis=0)
    weight, mean, sd = at(x[0], mixture)
    y, which = mixture.sample(x, np.random.default_rng(14))
    cdf = lambda value: (weight * stats.norm.cdf(np.asarray(value)[:, None], mean, sd)).sum(axis=1)  # noqa: E731
    assert stats.kstest(y[:, 0], cdf).pvalue > 0.01
    assert stats.chisquare(np.bincount(which, minlength=3), 5000 * weight).pvalue > 0.01
    for k in range(3):
        assert stats.kstest(y[which == k, 0], stats.norm(mean[k], sd[k]).cdf).pvalue > 0.01
    assert stats.kstest(y[:, 0], stats.norm(weight @ mean, 1).cdf).pvalue < 1e-6


def test_the_same_seed_gives_the_same_bytes() -> None:
    mixture, x = draw(15), np.random.default_rng(16).normal(size=(10, 2))
    one, other = (mixture.sample(x, np.random.default_rng(0)) for _ in range(2))
    assert one[0].tobytes() == other[0].tobytes()
    assert one[1].tobytes() == other[1].tobytes()
    assert mixture.sample(x, np.random.default_rng(1))[0].tobytes() != one[0].tobytes()


def test_shapes_say_what_the_mixture_is() -> None:
    mixture = draw(17, k=4, q=2, d=5)
    assert (mixture.n_experts, mixture.n_features) == (4, 5)
    np.testing.assert_allclose(np.exp(mixture.log_gate(np.zeros((2, 5)))).sum(axis=1), 1)
