"""Experts against scipy.stats and statsmodels; densities integrate to one; divergences by quadrature and by sums."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.integrate import quad
from scipy.special import rel_entr

from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.experts.multinomial import MultinomialExperts
from quiltwork.models.mixture.experts.poisson import MOST_LOG_RATE, PoissonExperts

seeds = st.integers(0, 2**32 - 1)


def gaussian(rng: np.random.Generator, k: int = 3, q: int = 1, d: int = 2) -> GaussianExperts:
    return GaussianExperts(rng.normal(size=(k, q, 1 + d)), rng.uniform(0.3, 3, size=(k, q)))


def multinomial(rng: np.random.Generator, k: int = 3, c: int = 4, d: int = 2) -> MultinomialExperts:
    return MultinomialExperts(rng.normal(size=(k, c, 1 + d)))


def poisson(rng: np.random.Generator, k: int = 3, d: int = 2) -> PoissonExperts:
    return PoissonExperts(rng.normal(size=(k, 1, 1 + d)) * 0.5)


def wide(x: np.ndarray) -> np.ndarray:
    return np.column_stack([np.ones(len(x)), x])


def families(rng: np.random.Generator) -> list[Experts]:
    return [gaussian(rng, q=2), multinomial(rng), poisson(rng)]


# Densities ---------------------------------------------------------------------


@settings(deadline=None)
@given(seeds, st.integers(1, 3))
def test_gaussian_density_is_scipys(seed: int, q: int) -> None:
    rng = np.random.default_rng(seed)
    experts, x, y = gaussian(rng, q=q), rng.normal(size=(5, 2)), rng.normal(size=(5, q)) * 3
    for k in range(3):
        mean = wide(x) @ experts.coefficients[k].T
        expected = stats.norm.logpdf(y, mean, np.sqrt(experts.variances[k])).sum(axis=1)
        np.testing.assert_allclose(experts.log_density(x, y)[:, k], expected, rtol=1e-10)


@settings(deadline=None)
@given(seeds)
def test_poisson_density_is_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    experts, x = poisson(rng), rng.normal(size=(6, 2))
    y = rng.integers(0, 30, size=(6, 1)).astype(float)
    for k in range(3):
        rate = np.exp(wide(x) @ experts.coefficients[k, 0])
        expected = stats.poisson.logpmf(y[:, 0], rate)
        np.testing.assert_allclose(experts.log_density(x, y)[:, k], expected, rtol=1e-9)


def test_multinomial_density_is_statsmodels() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(80, 2)), rng.integers(0, 3, size=80)
    y[:3] = 0, 1, 2
    params = rng.normal(size=(3, 2))  # statsmodels: class 0 is the reference, one column a further class
    experts = MultinomialExperts(np.stack([np.zeros(3), *params.T])[None])
    expected = sm.MNLogit(y, wide(x)).loglikeobs(params).sum(axis=1)  # statsmodels leaves one column a class
    np.testing.assert_allclose(experts.log_density(x, y)[:, 0], expected, rtol=1e-10)
    wrong = MultinomialExperts(experts.coefficients[:, ::-1])
    assert not np.allclose(wrong.log_density(x, y)[:, 0], expected)


def test_gaussian_and_poisson_likelihoods_are_statsmodels() -> None:
    rng = np.random.default_rng(5)
    x, b = rng.normal(size=(50, 2)), np.array([0.3, -0.2, 0.5])
    counts = rng.poisson(np.exp(wide(x) @ b))
    ours = PoissonExperts(b[None, None]).log_density(x, counts[:, None]).sum()
    assert ours == pytest.approx(sm.Poisson(counts, wide(x)).loglike(b), rel=1e-12)
    y = wide(x) @ b + rng.normal(size=50)
    fit = sm.OLS(y, wide(x)).fit()
    at_optimum = GaussianExperts(fit.params[None, None], np.array([[fit.ssr / 50]]))
    assert at_optimum.log_density(x, y[:, None]).sum() == pytest.approx(fit.llf, rel=1e-12)


@settings(deadline=None, max_examples=10)
@given(seeds)
def test_gaussian_densities_integrate_to_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    experts, x = gaussian(rng, k=1), rng.normal(size=(1, 2))
    centre = experts.mean(x)[0, 0, 0]
    density = lambda y: np.exp(experts.log_density(x, np.array([[y]]))[0, 0])  # noqa: E731
    whole = quad(density, centre - 30, centre + 30, points=[centre])
    assert whole[0] == pytest.approx(1, abs=1e-8)


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_probabilities_of_discrete_families_sum_to_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(1, 2))
    classes = multinomial(rng)
    total = np.exp(classes.log_density(np.repeat(x, 4, axis=0), np.arange(4))).sum(axis=0)
    np.testing.assert_allclose(total, 1, atol=1e-12)
    counts = np.arange(2000.0)[:, None]
    total = np.exp(poisson(rng).log_density(np.repeat(x, 2000, axis=0), counts)).sum(axis=0)
    np.testing.assert_allclose(total, 1, atol=1e-9)


# Moments -----------------------------------------------------------------------


def test_means_and_variances_are_scipys() -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(size=(4, 2))
    counts, classes, normal = poisson(rng), multinomial(rng), gaussian(rng, q=2)
    rate = np.exp(np.einsum("np,kqp->nkq", wide(x), counts.coefficients))
    np.testing.assert_allclose(counts.mean(x), stats.poisson.mean(rate))
    np.testing.assert_allclose(counts.variance(x), stats.poisson.var(rate))
    np.testing.assert_allclose(normal.mean(x), np.einsum("np,kqp->nkq", wide(x), normal.coefficients))
    np.testing.assert_allclose(normal.variance(x), np.broadcast_to(normal.variances, (4, 3, 2)))
    p = np.exp(np.einsum("np,kqp->nkq", wide(x), classes.coefficients))
    p /= p.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(classes.mean(x), p)
    np.testing.assert_allclose(classes.variance(x), stats.bernoulli.var(p))


def test_log_rates_are_held_so_that_far_counts_stay_finite() -> None:
    experts = PoissonExperts(np.array([[[0.0, 100.0]]]))
    far = np.array([[50.0]])
    assert experts.mean(far).item() == pytest.approx(np.exp(MOST_LOG_RATE))
    assert np.isfinite(experts.log_density(far, np.array([[3.0]]))).all()
    assert np.isfinite(experts.divergence(PoissonExperts(np.zeros((1, 1, 2))), far)).all()


# Divergences -------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(seeds)
def test_gaussian_divergence_is_the_integral(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other, x = gaussian(rng, k=2), gaussian(rng, k=3), rng.normal(size=(1, 2))
    found = one.divergence(other, x)
    assert found.shape == (1, 2, 3)
    for i, k in np.ndindex(2, 3):
        p = stats.norm(one.mean(x)[0, i, 0], np.sqrt(one.variances[i, 0]))
        r = stats.norm(other.mean(x)[0, k, 0], np.sqrt(other.variances[k, 0]))
        low, high = p.mean() - 12 * p.std(), p.mean() + 12 * p.std()
        integral = quad(lambda y, p=p, r=r: p.pdf(y) * (p.logpdf(y) - r.logpdf(y)), low, high, points=[p.mean()])[0]
        assert found[0, i, k] == pytest.approx(integral, abs=1e-7)


def test_gaussian_divergence_adds_over_outputs() -> None:
    rng = np.random.default_rng(8)
    one, other, x = gaussian(rng, q=3), gaussian(rng, q=3), rng.normal(size=(5, 2))
    parts = [
        GaussianExperts(one.coefficients[:, [q]], one.variances[:, [q]]).divergence(
            GaussianExperts(other.coefficients[:, [q]], other.variances[:, [q]]), x
        )
        for q in range(3)
    ]
    np.testing.assert_allclose(one.divergence(other, x), sum(parts), rtol=1e-10)


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_poisson_divergence_is_the_sum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other, x = poisson(rng), poisson(rng, k=2), rng.normal(size=(2, 2))
    found, y = one.divergence(other, x), np.arange(1000)
    for i, a, b in np.ndindex(2, 3, 2):
        p, r = stats.poisson(one.mean(x)[i, a, 0]), stats.poisson(other.mean(x)[i, b, 0])
        assert found[i, a, b] == pytest.approx((p.pmf(y) * (p.logpmf(y) - r.logpmf(y)))[p.pmf(y) > 0].sum(), abs=1e-8)


@settings(deadline=None, max_examples=25)
@given(seeds)
def test_multinomial_divergence_is_scipys_relative_entropy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other, x = multinomial(rng), multinomial(rng, k=2), rng.normal(size=(3, 2))
    expected = rel_entr(one.mean(x)[:, :, None], other.mean(x)[:, None, :]).sum(axis=3)
    np.testing.assert_allclose(one.divergence(other, x), expected, atol=1e-10)


@pytest.mark.parametrize("family", range(3), ids=["gaussian", "multinomial", "poisson"])
def test_divergence_is_zero_on_itself_positive_elsewhere_and_has_a_direction(family: int) -> None:
    rng = np.random.default_rng(9)
    one, other, x = families(rng)[family], families(rng)[family], rng.normal(size=(20, 2))
    own = one.divergence(one, x)
    np.testing.assert_allclose(own[:, range(3), range(3)], 0, atol=1e-12)
    there, back = one.divergence(other, x), other.divergence(one, x).transpose(0, 2, 1)
    assert (there > 0).all()
    assert not np.allclose(there, back, rtol=0.01)  # so a transposed answer would be seen


# Sampling ----------------------------------------------------------------------


def test_samples_follow_the_named_expert() -> None:
    rng = np.random.default_rng(10)
    x, which = np.repeat(rng.normal(size=(1, 2)), 4000, axis=0), np.full(4000, 1)
    normal = gaussian(rng)
    y = normal.sample(x, which, np.random.default_rng(0))[:, 0]
    mean, sd = normal.mean(x)[0, :, 0], np.sqrt(normal.variances[:, 0])
    assert stats.kstest(y, stats.norm(mean[1], sd[1]).cdf).pvalue > 0.01
    assert stats.kstest(y, stats.norm(mean[0], sd[0]).cdf).pvalue < 1e-6
    classes = multinomial(rng)
    seen = np.bincount(classes.sample(x, which, np.random.default_rng(0)), minlength=4)
    assert stats.chisquare(seen, 4000 * classes.mean(x)[0, 1]).pvalue > 0.01
    assert stats.chisquare(seen, 4000 * classes.mean(x)[0, 2]).pvalue < 1e-6
    counts = poisson(rng)
    drawn = counts.sample(x, which, np.random.default_rng(0))
    assert drawn.shape == (4000, 1)
    rate = counts.mean(x)[0, 1, 0]
    assert drawn.mean() == pytest.approx(rate, abs=4 * np.sqrt(rate / 4000))


# What all families share ---------------------------------------------------------


@pytest.mark.parametrize("family", range(3), ids=["gaussian", "multinomial", "poisson"])
def test_selection_reorders_every_answer(family: int) -> None:
    rng = np.random.default_rng(11)
    experts, x, order = families(rng)[family], rng.normal(size=(6, 2)), [2, 0, 1]
    y = experts.sample(x, np.zeros(6, dtype=np.intp), rng)
    chosen = experts.select(order)
    np.testing.assert_array_equal(chosen.mean(x), experts.mean(x)[:, order])
    np.testing.assert_allclose(chosen.log_density(x, y), experts.log_density(x, y)[:, order], rtol=1e-14)
    assert chosen.family == experts.family
    assert experts.select([1]).n_experts == 1


@pytest.mark.parametrize("family", range(3), ids=["gaussian", "multinomial", "poisson"])
def test_parameters_determine_the_experts(family: int) -> None:
    rng = np.random.default_rng(12)
    experts, x = families(rng)[family], rng.normal(size=(6, 2))
    again = type(experts)(**experts.parameters())
    np.testing.assert_array_equal(again.variance(x), experts.variance(x))
    np.testing.assert_array_equal(again.mean(x), experts.mean(x))


def test_a_common_vector_over_classes_changes_nothing() -> None:
    rng = np.random.default_rng(13)
    experts, x = multinomial(rng), rng.normal(size=(6, 2))
    shifted = MultinomialExperts(experts.coefficients + rng.normal(size=(3, 1, 3)))
    np.testing.assert_allclose(shifted.mean(x), experts.mean(x), atol=1e-12)
