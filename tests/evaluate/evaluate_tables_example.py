"""Small mixtures of every family, their rows, and a composite of a few parties."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from quiltwork.composite import TableComposite
from quiltwork.composite.provenance import Entry, Provenance
from quiltwork.composite.solution import Solution
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.experts.multinomial import MultinomialExperts
from quiltwork.models.mixture.experts.poisson import PoissonExperts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.local import Local, Table
from quiltwork.models.mixture.mixture import Mixture

FEATURES = ("age", "dose")


def gaussian(*, shift: float = 0.0, scale: float = 1.0, outputs: int = 1) -> Mixture[Any]:
    """Two crossing lines over two features; ``scale`` multiplies the standard deviations."""
    gate = SoftmaxGate(np.array([[0.2, 2.0, 0.3], [0.0, 0.0, 0.0]]))
    one = np.array([[1.0 + shift, 2.0, 0.5], [-1.0 + shift, -1.5, 1.0]])
    coefficients = np.stack([one + j for j in range(outputs)], axis=1)
    return Mixture(gate, GaussianExperts(coefficients, np.full((2, outputs), 0.25 * scale**2)))


def poisson() -> Mixture[Any]:
    gate = SoftmaxGate(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    return Mixture(gate, PoissonExperts(np.array([[[0.5, 0.4, 0.1]], [[1.5, -0.3, 0.2]]])))


def multinomial(*, sharpness: float = 1.0) -> Mixture[Any]:
    rng = np.random.default_rng(3)
    gate = SoftmaxGate(np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]))
    return Mixture(gate, MultinomialExperts(sharpness * rng.normal(size=(2, 3, 3))))


def rows(mixture: Mixture[Any], n: int, seed: int = 0, centre: float = 0.0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x = rng.normal(centre, 1.0, size=(n, 2))
    return x, mixture.sample(x, rng)[0]


class FirstOf:
    """A method for tests: the mixture of the first party in order, the others being excluded where told."""

    name = "first"

    def __init__(self, excluded: Sequence[str] = ()) -> None:
        self.excluded = tuple(excluded)

    def needs(self) -> frozenset[str]:
        return frozenset({"mixture"})

    def solve(self, table: Table, locals: Sequence[Local]) -> Solution:
        kept = [local for local in locals if local.party not in self.excluded]
        told = {local.party: "its fit did not converge" for local in locals if local.party in self.excluded}
        return Solution(kept[0].mixture, told, (3.0, 2.0, 1.5))


def composite(
    mixtures: dict[str, Mixture[Any]], method: Any = None, classes: tuple[str, ...] | None = None
) -> TableComposite:
    family = next(iter(mixtures.values())).experts.family
    table = Table(FEATURES, ("years", "mg"), ("y",), classes, family)
    locals_ = tuple(Local(p, f"sha256:{p}", "CC0-1.0", m, 100) for p, m in sorted(mixtures.items()))
    entries = tuple(Entry(local.party, local.digest, local.licence) for local in locals_)
    return TableComposite(method or FirstOf(), table, locals_, Provenance(None, "first", entries))
