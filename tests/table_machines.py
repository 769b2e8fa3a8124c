"""Machines for tests of composition over tables: parameters and statistics made directly, no fit needed.

Each family has one truth of three experts; a machine's mixture is the truth with noise on every parameter and its
experts in an order of its own. Summaries and precisions are those of rows that the machine drew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quiltwork.compose.aligned_average import AlignedAverage
from quiltwork.composite import Entry, Provenance, TableComposite, TableMethod
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, write
from quiltwork.contribution.tables import CovariatesStatistic, MixtureMethod, PrecisionStatistic, TableReference
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.models.mixture.design import augmented
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.experts.multinomial import MultinomialExperts
from quiltwork.models.mixture.experts.poisson import PoissonExperts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.local import Local, Precision, Table
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.named import named
from quiltwork.privacy.events import ExactEvent

Array = NDArray[np.float64]

FEATURES = ("age", "dose")
UNITS = ("years", "mg")
PARTIES = ("ash", "birch", "cedar", "elm")

TABLES: Mapping[str, Table] = {
    "gaussian": Table(FEATURES, UNITS, ("pressure",), None, "gaussian"),
    "gaussian-2": Table(FEATURES, UNITS, ("low", "high"), None, "gaussian"),
    "multinomial": Table(FEATURES, UNITS, ("grade",), ("none", "mild", "severe"), "multinomial"),
    "poisson": Table(FEATURES, UNITS, ("visits",), None, "poisson"),
}

GATE = np.array([[0.0, 2.0, 0.0], [0.5, -2.0, 1.0], [0.0, 0.0, 0.0]])
_SLOPES = np.array([[4.0, 1.0, 0.0], [-4.0, 0.0, 1.0], [0.0, -2.0, 2.0]])


def truth(name: str) -> Mixture[Experts]:
    """Three experts of a family that are easy to tell apart."""
    q = TABLES[name].n_outputs
    spread = np.stack([_SLOPES * (1 + 0.5 * output) for output in range(q)], axis=1)
    return Mixture(SoftmaxGate(GATE), _experts(name, spread, 0.5 * np.ones((3, q))))


def _experts(name: str, coefficients: Array, variances: Array) -> Experts:
    match TABLES[name].family:
        case "gaussian":
            return GaussianExperts(coefficients, variances)
        case "multinomial":
            return MultinomialExperts(coefficients)
        case "poisson":
            return PoissonExperts(coefficients / 4)


def covariates(rows: int, seed: int, shift: float = 0.0) -> Array:
    """``[rows, 2]``."""
    return np.random.default_rng(seed).normal(size=(rows, 2)) + shift


def machine(name: str, party: str, *, seed: int, noise: float = 0.05, rows: int = 120, shift: float = 0.0) -> Local:
    """One machine of a family; everything declared."""
    rng, whole = np.random.default_rng([seed, 7]), truth(name)
    gate = GATE + noise * rng.normal(size=GATE.shape)
    coefficients = whole.experts.coefficients + noise * rng.normal(size=whole.experts.coefficients.shape)
    variances = 0.5 * np.exp(noise * rng.normal(size=(3, coefficients.shape[1])))
    experts = _experts(name, coefficients * (4 if TABLES[name].family == "poisson" else 1), variances)
    order = rng.permutation(3)
    return declared(Mixture(SoftmaxGate(gate).select(order), experts.select(order)), party, seed, rows, shift)


def declared(mixture: Mixture[Experts], party: str, seed: int, rows: int = 120, shift: float = 0.0) -> Local:
    """A mixture as a machine that saw ``rows`` rows declares it."""
    x = covariates(rows, seed, shift)
    digest = f"sha256:{seed:064x}"
    summary = CovariateSummary.from_rows(x, components=2, minimum_rows=10)
    return Local(party, digest, f"LicenseRef-{party}", mixture, rows, summary, precision_of(mixture, x))


def softmax(mixture: Mixture[Experts], order: Sequence[int]) -> SoftmaxGate:
    """The gate over some of a mixture's experts."""
    assert isinstance(mixture.gate, SoftmaxGate)
    return mixture.gate.select(order)


def precision_of(mixture: Mixture[Experts], x: Array) -> Precision:
    """Grams and Hessian at x, with the gate's probabilities for responsibilities: brute-force sums, row by row."""
    weights, wide = np.exp(mixture.log_gate(x)), augmented(x)
    k, p = mixture.n_experts, wide.shape[1]
    grams, hessian = np.zeros((k, p, p)), np.zeros((k, p, k, p))
    for pi, row in zip(weights, wide, strict=True):
        square = np.outer(row, row)
        grams += pi[:, None, None] * square
        hessian += (np.diag(pi) - np.outer(pi, pi))[:, None, :, None] * square[None, :, None, :]
    return Precision(grams, hessian[:-1, :, :-1].reshape((k - 1) * p, (k - 1) * p))


def machines(name: str, parties: Sequence[str] = PARTIES, **changes: float) -> tuple[Local, ...]:
    """One machine a party, of different sizes."""
    return tuple(
        machine(name, party, seed=number + 1, rows=100 + 40 * number, **changes)  # type: ignore[arg-type]
        for number, party in enumerate(parties)
    )


def release(local: Local, table: Table, place: Path, **changes: object) -> Contribution:
    """The contribution that an owner writes of a local fit; ``changes`` replace fields of its table reference."""
    statistics: list[CovariatesStatistic | PrecisionStatistic] = []
    if local.covariates is not None:
        statistics.append(CovariatesStatistic(components=len(local.covariates.parts), minimum_rows=10))
    if local.precision is not None:
        statistics.append(PrecisionStatistic())
    reference = {"features": table.features, "units": table.units, "target": table.target, "classes": table.classes}
    method = MixtureMethod(
        family=table.family,
        n_experts=local.mixture.n_experts,
        n_features=local.mixture.n_features,
        n_outputs=local.mixture.experts.coefficients.shape[1],
        rows=local.rows,
        converged=local.converged,
        iterations=12,
        log_likelihood=None,
        seed=0,
        software={},
    )
    parts = ["mixture", *(statistic.name for statistic in statistics)]
    draft = Draft(
        party=local.party,
        table=TableReference(**{**reference, **changes}),  # type: ignore[arg-type]
        method=method,
        tensors=named(local),
        licence=local.licence,
        statistics=statistics,
        privacy=[ExactEvent(released=part, unit="row") for part in parts],
    )
    return write(place, draft)


def releases(locals_: Sequence[Local], table: Table, place: Path) -> list[Contribution]:
    """The contributions of all machines, each in a directory of its own."""
    return [release(local, table, place / local.party) for local in locals_]


def renamed(local: Local, party: str) -> Local:
    """The same fit under another name."""
    return replace(local, party=party)


def shuffled(local: Local, order: Sequence[int]) -> Local:
    """The same fit with its experts in another order."""
    mixture = local.mixture
    moved = Mixture(softmax(mixture, order), mixture.experts.select(order))
    precision = None if local.precision is None else _moved(local.precision, order)
    return replace(local, mixture=moved, precision=precision)


def _moved(precision: Precision, order: Sequence[int]) -> Precision:
    """Independent of the product: the Hessian as a quadratic form, evaluated along every pair of unit changes."""
    k, p = len(order), precision.expert_grams.shape[1]

    def old(free: Array) -> Array:
        rows = np.concatenate([free.reshape(k - 1, p), np.zeros((1, p))])
        back = np.empty_like(rows)
        back[list(order)] = rows
        return (back - back[-1])[:-1].ravel()

    basis = np.stack([old(unit) for unit in np.eye((k - 1) * p)])
    return Precision(precision.expert_grams[list(order)], basis @ precision.gate_hessian @ basis.T)


def composite(
    family: str = "gaussian", method: TableMethod | None = None, locals_: Sequence[Local] | None = None
) -> TableComposite:
    """A composite put together without contributions."""
    given = tuple(locals_ or machines(family))
    method = method or AlignedAverage()
    entries = tuple(Entry(local.party, local.digest, local.licence) for local in given)
    return TableComposite(method, TABLES[family], given, Provenance(None, method.name, entries))
