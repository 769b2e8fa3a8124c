"""Machines with local fits for tests of the reduction: the truth with the noise that N_m rows leave, no fitting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.experts.multinomial import MultinomialExperts
from quiltwork.models.mixture.experts.poisson import PoissonExperts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.local import Local, Precision, Table
from quiltwork.models.mixture.mixture import Mixture

FAMILIES = ("gaussian", "multinomial", "poisson")
D = 3


def table_of(family: str) -> Table:
    classes = ("a", "b", "c") if family == "multinomial" else None
    return Table(("x1", "x2", "x3"), ("",) * D, ("y",), classes, family)  # type: ignore[arg-type]


def truth_of(family: str, seed: int = 0, k: int = 3) -> Mixture[Any]:
    rng = np.random.default_rng(seed)
    gate = SoftmaxGate(1.5 * rng.normal(size=(k, 1 + D)))
    if family == "multinomial":
        return Mixture(gate, MultinomialExperts(2 * rng.normal(size=(k, 3, 1 + D))))
    if family == "poisson":
        return Mixture(gate, PoissonExperts(0.5 * rng.normal(size=(k, 1, 1 + D))))
    return Mixture(gate, GaussianExperts(3 * rng.normal(size=(k, 1, 1 + D)), rng.uniform(0.5, 1.5, size=(k, 1))))


def noisy(mixture: Mixture[Any], rows: float, rng: np.random.Generator) -> Mixture[Any]:
    """Coefficients off by about what so many rows leave, experts in another order."""
    parameters, amount = dict(mixture.experts.parameters()), 2.0 / np.sqrt(rows)
    parameters["coefficients"] = parameters["coefficients"] + amount * rng.normal(size=parameters["coefficients"].shape)
    assert isinstance(mixture.gate, SoftmaxGate)
    gate = SoftmaxGate(mixture.gate.coefficients + 2 * amount * rng.normal(size=mixture.gate.coefficients.shape))
    order = [int(k) for k in rng.permutation(mixture.n_experts)]
    return Mixture(gate.select(order), type(mixture.experts)(**parameters).select(order))


def machines(
    family: str = "gaussian", count: int = 8, *, rows: int = 2000, shift: float = 0.0, seed: int = 0
) -> list[Local]:
    """Honest machines; with ``shift`` their covariates lie apart along a line."""
    rng, truth = np.random.default_rng(seed + 100), truth_of(family, seed)
    found = []
    for m in range(count):
        x = rng.normal(size=(500, D))
        x[:, 0] += shift * (m - (count - 1) / 2)
        summary = CovariateSummary.from_rows(x)
        found.append(Local(f"m{m}", f"d{m}", "none", noisy(truth, rows, rng), rows, summary))
    return found


def with_precision(local: Local) -> Local:
    x = np.random.default_rng(1).normal(size=(400, D))
    wide = np.column_stack([np.ones(len(x)), x])
    gate = np.exp(local.mixture.log_gate(x))
    grams = np.einsum("nk,na,nb->kab", gate, wide, wide)
    size = (local.mixture.n_experts - 1) * (1 + D)
    return replace(local, precision=Precision(grams, np.eye(size)))


def spoiled(local: Local, seed: int = 5) -> Local:
    """The fit of another truth."""
    family = local.mixture.experts.family
    return replace(local, mixture=truth_of(family, seed + 77, local.mixture.n_experts))
