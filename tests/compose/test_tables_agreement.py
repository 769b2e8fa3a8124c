"""What the verb refuses over tables: machines that do not belong together, and methods that cannot have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import table_machines as tm
from quiltwork.compose.aligned_average import AlignedAverage
from quiltwork.compose.ambient import AmbientMixture
from quiltwork.compose.method import Method, compose
from quiltwork.compose.middle import Middle
from quiltwork.compose.precision_average import PrecisionAverage
from quiltwork.compose.reduction import Reduction
from quiltwork.compose.soup import Soup
from quiltwork.compose.tables import agreed_table, local_of, table_of
from quiltwork.composite import TableMethod
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import (
    CompatibilityError,
    DuplicateParty,
    InvalidOption,
    MissingPart,
    TableMismatch,
    TensorMismatch,
)
from quiltwork.models.base import Base
from quiltwork.models.mixture.local import Table
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.named import from_named, named, named_mixture

TABLE = tm.TABLES["gaussian"]
CLASSES = tm.TABLES["multinomial"]


def pair(place: Path, table: Table = TABLE, family: str = "gaussian", **changes: object) -> list[Contribution]:
    """Ash of ``table``, and birch of the same but for ``changes`` of its reference."""
    ash, birch = (tm.machine(family, party, seed=seed) for seed, party in enumerate(("ash", "birch")))
    return [tm.release(ash, table, place / "ash"), tm.release(birch, table, place / "birch", **changes)]


# Reading one machine.


@pytest.mark.parametrize("family", tm.TABLES)
def test_a_local_is_what_its_owner_declared(family: str, tmp_path: Path) -> None:
    given = replace(tm.machine(family, "ash", seed=3), converged=False)
    contribution = tm.release(given, tm.TABLES[family], tmp_path / "ash")
    read = local_of(contribution)
    assert table_of(contribution) == tm.TABLES[family]
    assert (read.party, read.licence, read.rows, read.converged) == ("ash", "LicenseRef-ash", 120, False)
    assert read.digest == contribution.digest
    assert type(read.mixture.experts) is type(given.mixture.experts)
    assert all(np.array_equal(array, named(read)[name]) for name, array in named(given).items())
    assert named(read).keys() == named(given).keys()


def test_what_is_not_declared_is_none(tmp_path: Path) -> None:
    bare = replace(tm.machine("gaussian", "ash", seed=3), covariates=None, precision=None)
    read = local_of(tm.release(bare, TABLE, tmp_path / "ash"))
    assert read.covariates is None
    assert read.precision is None


def test_one_expert_has_no_hessian(tmp_path: Path) -> None:
    whole = tm.machine("gaussian", "ash", seed=3).mixture
    one = tm.declared(Mixture(tm.softmax(whole, [1]), whole.experts.select([1])), "ash", 3)
    read = local_of(tm.release(one, TABLE, tmp_path / "ash"))
    assert read.precision is not None
    assert read.precision.gate_hessian.shape == (0, 0)
    assert "precision.gate_hessian" not in named(read)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("mixture.gate"), "'mixture.gate' of party 'ash': it is missing"),
        (lambda t: t.update({"mixture.gate": np.zeros((0, 3))}), r"shape is \[0, 3\]"),
        (lambda t: t.update({"mixture.gate": np.zeros((3, 4))}), r"the table makes it \[any, 3\]"),
        (lambda t: t.update({"mixture.coefficients": np.zeros((2, 1, 3))}), r"the table makes it \[3, 1, 3\]"),
        (lambda t: t.update({"mixture.coefficients": np.full((3, 1, 3), np.nan)}), "not finite"),
        (lambda t: t.update({"mixture.variances": np.array([[1.0], [0.0], [1.0]])}), "not positive"),
        (lambda t: t.pop("mixture.variances"), "'mixture.variances' of party 'ash': it is missing"),
        (lambda t: t.pop("covariates.means"), "'covariates.means' of party 'ash': it is missing"),
        (lambda t: t.update({"covariates.covariances": np.zeros((2, 2))}), "covariates.covariances"),
        (lambda t: t.pop("precision.expert_grams"), "'precision.expert_grams' of party 'ash': it is missing"),
        (lambda t: t.pop("precision.gate_hessian"), "'precision.gate_hessian' of party 'ash': it is missing"),
        (lambda t: t.update({"precision.gate_hessian": np.zeros((3, 3))}), r"the table makes it \[6, 6\]"),
    ],
)
def test_arrays_that_are_no_fit_are_refused(change: Callable[[dict[str, Any]], Any], message: str) -> None:
    tensors: dict[str, Any] = named(tm.machine("gaussian", "ash", seed=3))
    assert from_named(tensors, TABLE, "ash").mixture.n_experts == 3
    change(tensors)
    with pytest.raises(TensorMismatch, match=message):
        from_named(tensors, TABLE, "ash")


def test_a_pooled_gate_is_no_named_array() -> None:
    pooled = AmbientMixture().solve(TABLE, tm.machines("gaussian")).mixture
    with pytest.raises(AssertionError, match="PooledGate"):
        named_mixture(pooled)


# Machines of different tables.


@pytest.mark.parametrize(
    ("changes", "why", "mend"),
    [
        ({"features": ("age", "weight")}, "it has no feature 'dose', which party 'ash' has", "all machines have"),
        ({"features": ("age", "weight")}, "and has a feature 'weight', which party 'ash' has not", "all machines have"),
        ({"features": ("dose", "age")}, "number 1 is 'dose', and 'age' at party 'ash'", "order 'age', 'dose'"),
        ({"units": ("years", "g")}, "feature 'dose' is in 'g', and in 'mg' at party 'ash'", "same units"),
        ({"units": ("", "mg")}, "feature 'age' is in no stated unit, and in 'years'", "same units"),
        ({"target": ("pulse",)}, "it predicts 'pulse', and party 'ash' predicts 'pressure'", "predict the same"),
    ],
)
def test_machines_of_other_tables_are_refused(changes: dict[str, Any], why: str, mend: str, tmp_path: Path) -> None:
    with pytest.raises(TableMismatch) as caught:
        compose(pair(tmp_path, **changes), AlignedAverage())
    assert caught.value.what == "party 'birch'"
    assert why in caught.value.why
    assert mend in caught.value.mend


@pytest.mark.parametrize(
    ("classes", "why"),
    [
        (("none", "mild", "dead"), "it does not know class 'severe'"),
        (("none", "severe", "mild"), "its classes are in another order"),
    ],
)
def test_other_classes_are_refused(classes: tuple[str, ...], why: str, tmp_path: Path) -> None:
    with pytest.raises(TableMismatch, match=why) as caught:
        compose(pair(tmp_path, CLASSES, "multinomial", classes=classes), AlignedAverage())
    assert "classes" in caught.value.mend


def test_a_machine_that_knows_more_classes_is_refused(tmp_path: Path) -> None:
    table = replace(CLASSES, classes=("none", "mild"))
    few = tm.machine("multinomial", "ash", seed=0)
    few = replace(
        few, mixture=Mixture(few.mixture.gate, type(few.mixture.experts)(few.mixture.experts.coefficients[:, :2]))
    )
    both = [
        tm.release(few, table, tmp_path / "ash"),
        tm.release(tm.machine("multinomial", "birch", seed=1), CLASSES, tmp_path / "birch"),
    ]
    with pytest.raises(TableMismatch, match="it has a class 'severe', which party 'ash' does not know"):
        agreed_table(both)


def test_another_family_is_refused(tmp_path: Path) -> None:
    ash, birch = tm.machine("gaussian", "ash", seed=0), tm.machine("poisson", "birch", seed=1)
    table = replace(tm.TABLES["poisson"], target=("pressure",))
    both = [tm.release(ash, TABLE, tmp_path / "ash"), tm.release(birch, table, tmp_path / "birch")]
    with pytest.raises(TableMismatch, match="its experts are poisson, and those of party 'ash' gaussian"):
        compose(both, Middle())


def test_machines_of_one_table_agree(tmp_path: Path) -> None:
    assert agreed_table(pair(tmp_path)) == TABLE


# What does not fit the method.


def smaller(party: str, seed: int) -> Any:
    """A machine of two experts."""
    whole = tm.machine("gaussian", party, seed=seed)
    return tm.declared(Mixture(tm.softmax(whole.mixture, [0, 2]), whole.mixture.experts.select([0, 2])), party, seed)


@pytest.mark.parametrize("method", [AlignedAverage(), PrecisionAverage()])
def test_averages_need_as_many_experts_everywhere(method: TableMethod, tmp_path: Path) -> None:
    machines = [*tm.machines("gaussian")[:3], smaller("elm", 9)]
    with pytest.raises(CompatibilityError, match="'elm' has 2") as caught:
        compose(tm.releases(machines, TABLE, tmp_path), method)
    assert "the others have 3" in caught.value.why
    assert "reduction" in caught.value.mend


@pytest.mark.parametrize(
    "method", [Middle(), Middle("transport", support=10), AmbientMixture(), Reduction(3, support=90)]
)
def test_others_take_any_number_of_experts(method: TableMethod, tmp_path: Path) -> None:
    machines = [*tm.machines("gaussian")[:3], smaller("elm", 9)]
    composite = compose(tm.releases(machines, TABLE, tmp_path), method)
    assert composite.mixture.n_experts == (11 if method.name == "ambient" else 3)
    assert np.isfinite(composite.mixture.mean(tm.covariates(5, 0))).all()


@pytest.mark.parametrize("family", ["multinomial", "poisson"])
@pytest.mark.parametrize("method", [PrecisionAverage(), Reduction(3, support=90, experts="precision")])
def test_precision_is_of_gaussian_experts(family: str, method: TableMethod, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=f"{family} experts"):
        compose(tm.releases(tm.machines(family)[:2], tm.TABLES[family], tmp_path), method)


@pytest.mark.parametrize(
    ("method", "missing", "part"),
    [
        (AlignedAverage(), {"covariates": None}, "covariates"),
        (Middle(), {"covariates": None}, "covariates"),
        (AmbientMixture("evidence"), {"covariates": None}, "covariates"),
        (PrecisionAverage(), {"precision": None}, "precision"),
    ],
)
def test_what_a_method_needs_must_be_declared(
    method: TableMethod, missing: dict[str, None], part: str, tmp_path: Path
) -> None:
    ash, birch = tm.machines("gaussian")[:2]
    both = tm.releases([ash, replace(birch, **missing)], TABLE, tmp_path)
    with pytest.raises(MissingPart, match=f"'birch'.*needs the part '{part}'"):
        compose(both, method)
    compose(both, AmbientMixture())
    # given to the method itself, the same locals are refused too, and not met by an accident in the mathematics
    with pytest.raises(MissingPart, match="party 'birch'"):
        method.solve(TABLE, [local_of(c) for c in both])


def test_two_contributions_of_one_party_are_refused(tmp_path: Path) -> None:
    ash = tm.machine("gaussian", "ash", seed=0)
    again = [tm.release(ash, TABLE, tmp_path / "one"), tm.release(ash, TABLE, tmp_path / "two")]
    with pytest.raises(DuplicateParty, match="party 'ash'"):
        compose(again, AlignedAverage())


def test_nothing_to_compose_is_refused() -> None:
    with pytest.raises(InvalidOption, match="nothing to compose"):
        compose([], AlignedAverage())


# Kinds that do not meet.


def test_a_method_for_tables_refuses_experts_of_a_language_model(
    contributions: Callable[[str], list[Contribution]], tmp_path: Path
) -> None:
    expert = contributions("olmo2")[1]
    with pytest.raises(MissingPart, match="of party 'birch': it is of kind 'expert', and holds no mixture"):
        compose([*pair(tmp_path)[:1], expert], AlignedAverage())
    with pytest.raises(MissingPart, match="of kind 'expert', and holds no mixture"):
        local_of(expert)
    with pytest.raises(MissingPart, match="of kind 'expert'"):
        table_of(expert)


def test_a_method_for_language_models_refuses_mixtures(tiny_base: Callable[[str], Base], tmp_path: Path) -> None:
    with pytest.raises(MissingPart, match="of kind 'mixture', and was made from no base") as caught:
        compose(pair(tmp_path), Soup(), tiny_base("olmo2"))
    assert "without a base" in caught.value.mend


def test_a_method_for_language_models_needs_a_base(contributions: Callable[[str], list[Contribution]]) -> None:
    with pytest.raises(InvalidOption, match="method soup without a base"):
        compose(contributions("olmo2"), Soup())


def test_a_method_for_tables_takes_no_base_and_no_public_text(tiny_base: Callable[[str], Base], tmp_path: Path) -> None:
    both: Any = pair(tmp_path)
    method: Any = AlignedAverage()
    with pytest.raises(InvalidOption, match="for method aligned_average: it composes mixtures on tables"):
        compose(both, method, tiny_base("olmo2"))
    with pytest.raises(InvalidOption, match="for method aligned_average"):
        compose(both, method, public={})


def test_methods_of_the_two_kinds_are_told_apart() -> None:
    assert isinstance(AlignedAverage(), TableMethod)
    assert not isinstance(AlignedAverage(), Method)
    assert not isinstance(Soup(), TableMethod)


# Options.


@pytest.mark.parametrize("kind", [AlignedAverage, PrecisionAverage, Middle])
@pytest.mark.parametrize(
    "options", [{"support": 0}, {"support": -5}, {"support": 2.5}, {"support": True}, {"seed": -1}, {"seed": "0"}]
)
def test_numbers_that_are_none_are_refused(kind: Callable[..., TableMethod], options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=f"{next(iter(options))}=.*{kind.__name__}"):
        kind(**options)


def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(InvalidOption, match="divergence='kl'"):
        Middle("kl")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="weights='size'"):
        AmbientMixture("size")  # type: ignore[arg-type]
