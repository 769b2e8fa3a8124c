"""Random mixtures of each family, for tests of alignment, transport and reduction."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.experts.multinomial import MultinomialExperts
from quiltwork.models.mixture.experts.poisson import PoissonExperts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture

KINDS = ("gaussian", "gaussian two outputs", "multinomial", "poisson")


def draw_mixture(kind: str, rng: np.random.Generator, k: int = 3, d: int = 2) -> Mixture[Any]:
    gate = SoftmaxGate(rng.normal(size=(k, 1 + d)))
    if kind == "multinomial":
        return Mixture(gate, MultinomialExperts(2 * rng.normal(size=(k, 3, 1 + d))))
    if kind == "poisson":
        return Mixture(gate, PoissonExperts(0.7 * rng.normal(size=(k, 1, 1 + d))))
    q = 2 if kind == "gaussian two outputs" else 1
    return Mixture(gate, GaussianExperts(3 * rng.normal(size=(k, q, 1 + d)), rng.uniform(0.3, 2, size=(k, q))))


def permuted(mixture: Mixture[Any], order: list[int]) -> Mixture[Any]:
    assert isinstance(mixture.gate, SoftmaxGate)
    return Mixture(mixture.gate.select(order), mixture.experts.select(order))


def nudged(mixture: Mixture[Any], rng: np.random.Generator, amount: float) -> Mixture[Any]:
    """The mixture with noise on every coefficient."""
    assert isinstance(mixture.gate, SoftmaxGate)
    parameters = mixture.experts.parameters()
    coefficients = parameters["coefficients"]
    parameters["coefficients"] = coefficients + amount * rng.normal(size=coefficients.shape)
    gate = mixture.gate.coefficients
    return Mixture(SoftmaxGate(gate + amount * rng.normal(size=gate.shape)), type(mixture.experts)(**parameters))


def gap_between(f: Mixture[Any], g: Mixture[Any], x: np.ndarray, seed: int = 0) -> float:
    """Largest difference of log-densities, at responses that f draws."""
    y, _ = f.sample(x, np.random.default_rng(seed))
    return float(np.abs(f.log_density(x, y) - g.log_density(x, y)).max())
