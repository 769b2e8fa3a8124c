"""The laws of composing over tables as functions that raise AssertionError, and the methods that must keep them.

Each check takes what it judges, so that the tests can hand it a deliberately broken method and see it refused.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from law_checks import assert_same_files

import table_machines as tm
from quiltwork.compose.aligned_average import AlignedAverage
from quiltwork.compose.ambient import AmbientMixture
from quiltwork.compose.method import compose
from quiltwork.compose.middle import Middle
from quiltwork.compose.precision_average import PrecisionAverage
from quiltwork.compose.reduction import Reduction
from quiltwork.compose.reopen import open_table_composite
from quiltwork.compose.tables import local_of
from quiltwork.composite import TableComposite, TableMethod
from quiltwork.contribution.sealed import Contribution
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.mixture import Mixture

METHODS: Mapping[str, TableMethod] = {
    "aligned": AlignedAverage(),
    "middle": Middle(),
    "middle-transport": Middle("transport", support=20),
    "middle-relaxed": Middle("relaxed"),
    "precision": PrecisionAverage(),
    "ambient": AmbientMixture(),
    "ambient-evidence": AmbientMixture("evidence"),
    "reduction": Reduction(3, support=150),
    "reduction-elbow": Reduction(support=100, starts=2),
    "reduction-projection": Reduction(3, support=150, gate="projection"),
    "reduction-evidence": Reduction(3, support=150, weights="evidence"),
    "reduction-precision": Reduction(3, support=150, experts="precision"),
}
CHOOSES_K = ("reduction-elbow",)
"""Methods that may find a model of fewer experts good enough, and so need not give copies of one model back."""

GAUSSIAN_ONLY = ("precision", "reduction-precision")
CASES = [
    (method, family)
    for method, family in itertools.product(METHODS, tm.TABLES)
    if method not in GAUSSIAN_ONLY or family.startswith("gaussian")
]


def responses(name: str, rows: int = 40) -> Any:
    """Responses of a family, as many as rows, for evaluating densities."""
    rng = np.random.default_rng(11)
    match name:
        case "multinomial":
            return rng.integers(0, 3, size=rows)
        case "poisson":
            return rng.poisson(2.0, size=(rows, 1)).astype(float)
        case _:
            return rng.normal(size=(rows, tm.TABLES[name].n_outputs))


def difference(one: Mixture[Experts], other: Mixture[Experts], name: str) -> float:
    """Largest difference of log-densities and of means over common rows."""
    x, y = tm.covariates(40, 99), responses(name)
    density = np.abs(one.log_density(x, y) - other.log_density(x, y)).max()
    return float(max(density, np.abs(one.mean(x) - other.mean(x)).max()))


Composer = Callable[[Sequence[Contribution], TableMethod], TableComposite]


def check_opt_out(
    contributions: Sequence[Contribution], method: TableMethod, party: str, place: Path, composer: Composer = compose
) -> None:
    """compose(S).without(p) == compose(S - {p}), byte for byte, in memory and from the directory alone."""
    whole = composer(contributions, method)
    rest = compose([c for c in contributions if c.party != party], method)
    whole.save(place / "whole")
    rest.save(place / "rest")
    whole.without(party).save(place / "without")
    assert_same_files(place / "without", place / "rest")
    open_table_composite(place / "whole").without(party).save(place / "removed")
    assert_same_files(place / "removed", place / "rest")


def check_order(
    contributions: Sequence[Contribution], method: TableMethod, place: Path, composer: Composer = compose
) -> None:
    """Composing a permutation of S gives the same bytes."""
    backwards = contributions[::-1]
    for number, permutation in enumerate([contributions, backwards, [*backwards[1:], backwards[0]]]):
        composer(permutation, method).save(place / str(number))
        assert_same_files(place / "0", place / str(number))


def check_identity(contributions: Sequence[Contribution], method: TableMethod, family: str, tolerance: float) -> None:
    """Composing copies of one model gives that model's function."""
    composed = compose(contributions, method).mixture
    gap = difference(composed, local_of(contributions[0]).mixture, family)
    assert gap <= tolerance, f"the functions differ by {gap}"


def check_agreement(composite: TableComposite, family: str, place: Path) -> None:
    """The saved composite predicts what the one in memory does, to the last bit, and saves as the same bytes."""
    composite.save(place / "saved")
    opened = open_table_composite(place / "saved")
    x, y = tm.covariates(40, 99), responses(family)
    assert np.array_equal(opened.mixture.log_density(x, y), composite.mixture.log_density(x, y))
    assert np.array_equal(opened.mixture.mean(x), composite.mixture.mean(x))
    opened.save(place / "again")
    assert_same_files(place / "saved", place / "again")
