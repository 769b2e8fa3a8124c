"""The laws of composing, for every method over tables and every family of experts.

Laws 1 (opt-out), 2 (order), 3 (identity), 4 (round trip), 5 (nothing undeclared crosses: a composite holds what the
contributions hold and no more) and 6 (saved and in-memory predictions agree). Each check is tried on a method that
breaks it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from table_law_checks import (
    CASES,
    CHOOSES_K,
    METHODS,
    check_agreement,
    check_identity,
    check_opt_out,
    check_order,
    difference,
)

import table_machines as tm
from quiltwork.compose.aligned_average import AlignedAverage
from quiltwork.compose.method import compose
from quiltwork.compose.ordered import averaged
from quiltwork.compose.reopen import open_any
from quiltwork.compose.tables import Local, Solution, Table
from quiltwork.composite import TableComposite, TableMethod
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import CheckpointError
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture

Given = Callable[..., tuple[Contribution, ...]]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """``given(family)``: four machines' contributions; ``given(family, True)``: one fit under four names."""

    @cache
    def build(family: str, copies: bool = False) -> tuple[Contribution, ...]:
        place = tmp_path_factory.mktemp(f"machines-{family}")
        locals_ = tm.machines(family)
        if copies:
            locals_ = tuple(tm.renamed(locals_[0], party) for party in tm.PARTIES)
        return tuple(tm.releases(locals_, tm.TABLES[family], place))

    return build


# Every method, every family.


@pytest.mark.parametrize(("method", "family"), CASES)
def test_opt_out_is_exact(method: str, family: str, given: Given, tmp_path: Path) -> None:
    for party in ("ash", "cedar"):
        check_opt_out(given(family), METHODS[method], party, tmp_path / party)


@pytest.mark.parametrize(("method", "family"), CASES)
def test_order_does_not_matter(method: str, family: str, given: Given, tmp_path: Path) -> None:
    check_order(given(family), METHODS[method], tmp_path)


@pytest.mark.parametrize(("method", "family"), [case for case in CASES if case[0] not in CHOOSES_K])
def test_copies_of_one_model_give_its_function(method: str, family: str, given: Given) -> None:
    check_identity(given(family, True), METHODS[method], family, tolerance=1e-9)


@pytest.mark.parametrize(("method", "family"), CASES)
def test_saved_and_in_memory_predictions_agree(method: str, family: str, given: Given, tmp_path: Path) -> None:
    check_agreement(compose(given(family), METHODS[method]), family, tmp_path)


@pytest.mark.parametrize(("method", "family"), CASES)
def test_labels_of_experts_mean_nothing(method: str, family: str, given: Given, tmp_path: Path) -> None:
    locals_ = tm.machines(family)
    orders = [(0, 1, 2), (2, 0, 1), (1, 0, 2), (2, 1, 0)]
    moved = [tm.shuffled(local, order) for local, order in zip(locals_, orders, strict=True)]
    one = compose(given(family), METHODS[method]).mixture
    other = compose(tm.releases(moved, tm.TABLES[family], tmp_path), METHODS[method]).mixture
    assert difference(one, other, family) < 1e-8


@pytest.mark.parametrize("family", tm.TABLES)
@pytest.mark.parametrize("method", ["aligned", "ambient"])
def test_a_changed_byte_anywhere_is_refused(method: str, family: str, given: Given, tmp_path: Path) -> None:
    place = compose(given(family), METHODS[method]).save(tmp_path / "saved")
    rng = np.random.default_rng(5)
    for file in sorted(place.iterdir()):
        whole = file.read_bytes()
        for at in {0, len(whole) - 1, *map(int, rng.integers(0, len(whole), size=6))}:
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            if file.name == "README.md":
                open_any(place)
            else:
                with pytest.raises(CheckpointError):
                    open_any(place)
        file.write_bytes(whole)
    assert open_any(place).parties == tm.PARTIES


@pytest.mark.parametrize(("method", "family"), CASES)
def test_nothing_undeclared_is_in_a_composite(method: str, family: str, given: Given, tmp_path: Path) -> None:
    place = compose(given(family), METHODS[method]).save(tmp_path / "saved")
    for contribution in given(family):
        saved = load_file(place / f"party-{contribution.party}.safetensors")
        assert sorted(saved) == list(contribution.tensor_names())
        for name, array in saved.items():
            assert np.array_equal(array, contribution.tensor(name).numpy())
    assert len(list(place.iterdir())) == len(tm.PARTIES) + 3


# Negative controls: composers and methods that break a law, and are seen to.


class Keeps(TableComposite):
    """A composite that takes a party out of its list and not out of its model."""

    def without(self, party: str) -> TableComposite:
        return replace(super().without(party), saved=self.solution)


def keeping(contributions: Sequence[Contribution], method: TableMethod) -> TableComposite:
    return Keeps(**fields_of(compose(contributions, method)))  # type: ignore[arg-type]


def led_by_the_first(contributions: Sequence[Contribution], method: TableMethod) -> TableComposite:
    """Moves the last digits according to who is given first."""
    composite = compose(contributions, method)
    return replace(composite, saved=nudged(composite.solution, 1e-12 * tm.PARTIES.index(contributions[0].party)))


@dataclass(frozen=True)
class Perturbs(AlignedAverage):
    """Adds a little to every gate."""

    def solve(self, table: Table, locals: Sequence[Local]) -> Solution:
        return nudged(super().solve(table, locals), 1e-4)


@dataclass(frozen=True)
class TrustsLabels(AlignedAverage):
    """Averages without aligning."""

    def solve(self, table: Table, locals: Sequence[Local]) -> Solution:
        return Solution(averaged([local.mixture for local in locals], np.full(len(locals), 1 / len(locals))))


class Rounds(TableComposite):
    """A composite that writes another model than it predicts with."""

    def save(self, target: str | Path, *, overwrite: bool = False) -> Path:
        return replace(TableComposite(**fields_of(self)), saved=nudged(self.solution, 1e-12)).save(target)


def fields_of(composite: TableComposite) -> dict[str, object]:
    return {field.name: getattr(composite, field.name) for field in fields(TableComposite)}


def nudged(solution: Solution, by: float) -> Solution:
    """The solution with one gate coefficient moved."""
    gate = solution.mixture.gate
    assert isinstance(gate, SoftmaxGate)
    coefficients = gate.coefficients.copy()
    coefficients[0, 0] += by
    return replace(solution, mixture=Mixture(SoftmaxGate(coefficients), solution.mixture.experts))


def test_a_composite_that_keeps_the_removed_party_is_noticed(given: Given, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"these files differ.*model\.safetensors"):
        check_opt_out(given("gaussian"), AlignedAverage(), "ash", tmp_path, keeping)


def test_a_composer_that_depends_on_order_is_noticed(given: Given, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"these files differ.*model\.safetensors"):
        check_order(given("gaussian"), AlignedAverage(), tmp_path, led_by_the_first)


def test_a_method_that_perturbs_breaks_identity(given: Given) -> None:
    with pytest.raises(AssertionError, match="the functions differ"):
        check_identity(given("gaussian", True), Perturbs(), "gaussian", tolerance=1e-9)


def test_a_method_that_trusts_labels_is_noticed(tmp_path: Path) -> None:
    local = tm.machine("gaussian", "ash", seed=1)
    other = tm.shuffled(tm.renamed(local, "birch"), (1, 2, 0))
    both = tm.releases([local, other], tm.TABLES["gaussian"], tmp_path)
    with pytest.raises(AssertionError, match="the functions differ"):
        check_identity(both, TrustsLabels(), "gaussian", tolerance=1e-9)
    check_identity(both, AlignedAverage(), "gaussian", tolerance=1e-9)


def test_a_composite_that_saves_another_model_is_noticed(given: Given, tmp_path: Path) -> None:
    composite = compose(given("gaussian"), AlignedAverage())
    with pytest.raises(AssertionError):
        check_agreement(Rounds(**fields_of(composite)), "gaussian", tmp_path)  # type: ignore[arg-type]
