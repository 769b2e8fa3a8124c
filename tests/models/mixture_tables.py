"""Simulated tables for tests of mixtures, and oracles that share no code with the package's fits."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import softmax

from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.experts.multinomial import MultinomialExperts
from quiltwork.models.mixture.experts.poisson import PoissonExperts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture

Array = NDArray[np.float64]


def separated(family: str = "gaussian", d: int = 2, outputs: int = 1) -> Mixture[Any]:
    """Two experts that differ much, under a gate along the first column."""
    gate = np.zeros((2, 1 + d))
    gate[0, 1] = 3.0
    rng = np.random.default_rng(3)
    sign = np.array([1.0, -1.0])[:, None, None]
    if family == "gaussian":
        coefficients = sign * (2.0 + rng.uniform(size=(1, outputs, 1 + d)))
        return Mixture(SoftmaxGate(gate), GaussianExperts(coefficients, np.array([[0.3], [0.6]]) * np.ones(outputs)))
    if family == "poisson":
        return Mixture(SoftmaxGate(gate), PoissonExperts(1.5 + sign * 0.6 * np.ones((1, 1, 1 + d)) / (1 + d)))
    one = np.array([[0.0] * (1 + d), [1.0] + [3.0] * d, [-1.0] + [-2.0] * d])
    return Mixture(SoftmaxGate(gate), MultinomialExperts(sign * one[None]))


def rows_of(mixture: Mixture[Any], n: int, seed: int = 0) -> tuple[Array, NDArray[Any]]:
    """Standard normal covariates, correlated, and responses."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n, mixture.n_features))
    x[:, 1:] += 0.4 * x[:, :1]
    return x, mixture.sample(x, rng)[0]


def density_by_hand(mixture: Mixture[Any], x: Array, y: NDArray[Any]) -> Array:
    """log f, row by row and expert by expert, from scipy.stats."""
    values = []
    for row, response in zip(x, y, strict=True):
        z = np.concatenate([[1.0], row])
        weights = softmax(mixture.gate.coefficients @ z)
        values.append(np.log(sum(w * _one(mixture.experts, k, z, response) for k, w in enumerate(weights))))
    return np.array(values)


def _one(experts: Any, k: int, z: Array, y: Any) -> float:
    linear = experts.coefficients[k] @ z
    if experts.family == "gaussian":
        return float(np.prod(stats.norm.pdf(y, linear, np.sqrt(experts.variances[k]))))
    if experts.family == "poisson":
        return float(stats.poisson.pmf(y[0], np.exp(linear[0])))
    return float(softmax(linear)[y])


def aligned(found: Mixture[Any], truth: Mixture[Any]) -> Mixture[Any]:
    """``found`` with its experts in the order that suits ``truth`` best, and its gate anchored."""
    k = truth.n_experts

    def distance(order: tuple[int, ...]) -> float:
        gap = found.experts.coefficients[list(order)] - truth.experts.coefficients
        return float((gap**2).sum())

    best = min(permutations(range(k)), key=distance)
    return Mixture(found.gate.select(best).anchored(), found.experts.select(best))
