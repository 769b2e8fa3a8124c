"""The kinds over tables: shapes written out by hand, sizes counted, and refusals by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from quiltwork.contribution import header
from quiltwork.contribution.declared import needs_of, parts_of, releases
from quiltwork.contribution.describe import describe
from quiltwork.contribution.fields import visible
from quiltwork.contribution.manifest import LikelihoodsManifest, MixtureManifest
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, read, write
from quiltwork.contribution.tables import (
    CovariatesStatistic,
    LikelihoodsMethod,
    MixtureMethod,
    PrecisionStatistic,
    TableReference,
)
from quiltwork.errors import MalformedContribution
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.privacy.accountant import price
from quiltwork.privacy.events import ExactEvent, GaussianEvent, OtherEvent

Make = Callable[..., Draft]
MakeTable = Callable[..., TableReference]
MakeMethod = Callable[..., MixtureMethod]
Forge = Callable[..., None]


def shapes(method: MixtureMethod) -> dict[str, tuple[int, ...]]:
    return {name: need.shape for name, need in (method.parts()[0].required or {}).items()}


# What each part requires


@pytest.mark.parametrize(
    ("family", "outputs", "names"),
    [
        ("gaussian", 1, {"gate", "coefficients", "variances"}),
        ("gaussian", 3, {"gate", "coefficients", "variances"}),
        ("multinomial", 5, {"gate", "coefficients"}),
        ("poisson", 1, {"gate", "coefficients"}),
    ],
)
def test_shapes_of_a_mixture(make_mixture_method: MakeMethod, family: str, outputs: int, names: set[str]) -> None:
    method = make_mixture_method(family=family, n_experts=4, n_features=20, n_outputs=outputs)
    due = {"gate": (4, 21), "coefficients": (4, outputs, 21), "variances": (4, outputs)}
    assert shapes(method) == {f"mixture.{name}": due[name] for name in names}
    needs = method.parts()[0].required or {}
    assert {need.dtypes for need in needs.values()} == {("F64",)}
    assert {name for name, need in needs.items() if need.least > -math.inf} <= {"mixture.variances"}


def test_shapes_of_the_statistics(make_mixture_method: MakeMethod) -> None:
    method = make_mixture_method(n_experts=4, n_features=20)
    covariates = CovariatesStatistic(components=3).part(method)
    precision = PrecisionStatistic().part(method)
    assert covariates.file == precision.file == "statistics.safetensors"
    assert {name: need.shape for name, need in (covariates.required or {}).items()} == {
        "covariates.counts": (3,),
        "covariates.means": (3, 20),
        "covariates.covariances": (3, 20, 20),
    }
    assert {name: need.shape for name, need in (precision.required or {}).items()} == {
        "precision.expert_grams": (4, 21, 21),
        "precision.gate_hessian": (63, 63),
    }
    alone = PrecisionStatistic().part(make_mixture_method(n_experts=1, n_features=20)).required
    assert alone is not None
    assert set(alone) == {"precision.expert_grams"}


def test_the_numbers_that_docs_format_counts(make_mixture_method: MakeMethod) -> None:
    """K = 4, d = 20, q = 1, J = 1: written out, so that the page and the code cannot part."""
    method = make_mixture_method(n_experts=4, n_features=20)

    def numbers(part: Any) -> int:
        return sum(math.prod(need.shape) for need in part.required.values())

    assert numbers(method.parts()[0]) == 4 * 21 + 4 * 21 + 4 == 172
    assert numbers(CovariatesStatistic(components=1).part(method)) == 1 + 20 + 400 == 421
    assert numbers(PrecisionStatistic().part(method)) == 4 * 21**2 + 63**2 == 5733
    page = (Path(__file__).parents[2] / "docs" / "format.md").read_text(encoding="utf-8")
    for count in ("172", "421", "5 733"):
        assert count in page


# Tables


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"features": (), "units": ()}, "at least 1"),
        ({"features": ("a", "a")}, "named twice"),
        ({"features": ("a", "systolic")}, "named twice"),
        ({"units": ("cm",)}, "2 features have 1 units"),
        ({"features": ("a", "")}, "at least 1 character"),
        ({"features": ("a", "x" * 201)}, "at most 200"),
        ({"features": ("a", "b\n")}, "U\\+000A does not show"),
        ({"features": ("a", "b\u202e")}, "U\\+202E does not show"),
        ({"features": ("a", "b\u200b")}, "U\\+200B does not show"),
        ({"features": ("a", "\x1b[2J")}, "U\\+001B does not show"),
        ({"units": ("cm", "\x07")}, "U\\+0007 does not show"),
        ({"target": ()}, "at least 1"),
        ({"target": tuple(f"y{i}" for i in range(65))}, "at most 64"),
        ({"classes": ("no",)}, "at least 2"),
        ({"classes": ("no", "no")}, "class is named twice"),
        ({"classes": ("no", "yes"), "target": ("a", "b")}, "classes belong to one target"),
        ({"features": ["Größe", "weight"]}, "valid tuple"),
    ],
)
def test_a_table_that_contradicts_itself_is_refused(make_table: MakeTable, changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        make_table(**changes)


def test_a_table_has_at_most_ten_thousand_columns(make_table: MakeTable) -> None:
    names = tuple(f"x{i}" for i in range(10_001))
    assert make_table(features=names[:-1], units=("",) * 10_000)
    with pytest.raises(ValidationError, match="at most 10000"):
        make_table(features=names, units=("",) * 10_001)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=20))
def test_letters_of_any_script_are_visible(name: str) -> None:
    assert visible(name) == name


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "binomial"},
        {"n_experts": 0},
        {"n_experts": 1025},
        {"n_experts": True},
        {"n_features": 0},
        {"n_features": 10_001},
        {"n_outputs": 0},
        {"rows": 0},
        {"rows": -1},
        {"rows": 1.0},
        {"converged": 1},
        {"iterations": -1},
        {"log_likelihood": math.nan},
        {"log_likelihood": math.inf},
        {"seed": None},
        {"software": {"": "1"}},
        {"n_experts": 1024, "n_features": 10_000, "n_outputs": 64},
    ],
)
def test_parameters_outside_their_domain_are_refused(make_mixture_method: MakeMethod, changes: dict[str, Any]) -> None:
    assert make_mixture_method()
    with pytest.raises(ValidationError):
        make_mixture_method(**changes)


@pytest.mark.parametrize(
    ("method", "table", "why"),
    [
        ({"n_features": 3}, {}, "3 features, and the table 2"),
        ({"n_outputs": 2}, {}, "2 outputs of family gaussian do not fit the table's 1"),
        ({}, {"target": ("a", "b")}, "1 outputs of family gaussian do not fit the table's 2"),
        ({"family": "poisson", "n_outputs": 2}, {"target": ("a", "b")}, "family poisson do not fit"),
        ({}, {"classes": ("no", "yes")}, "disagree on whether the target has classes"),
        ({"family": "multinomial"}, {}, "disagree on whether the target has classes"),
        ({"family": "multinomial", "n_outputs": 3}, {"classes": ("no", "yes")}, "do not fit the table's 2"),
        ({"n_experts": 1024, "n_features": 300}, "wide", "precision.expert_grams would hold"),
        ({"n_experts": 100, "n_features": 300}, "wide", "precision.gate_hessian would hold"),
    ],
)
def test_a_method_that_does_not_fit_its_table_is_refused(
    tmp_path: Path,
    make_mixture: Make,
    make_mixture_method: MakeMethod,
    make_table: MakeTable,
    method: dict[str, Any],
    table: Any,
    why: str,
) -> None:
    if table == "wide":
        table = {"features": tuple(f"x{i}" for i in range(300)), "units": ("",) * 300}
    draft = make_mixture(method=make_mixture_method(**method), table=make_table(**table))
    with pytest.raises(MalformedContribution, match=why):
        write(tmp_path / "x", draft)
    assert not any(tmp_path.iterdir())


# Writing and reading


def test_it_is_read_as_it_was_written(fitted: Contribution, make_mixture: Make) -> None:
    again, draft = read(fitted.path), make_mixture()
    assert again == fitted
    assert isinstance(again.manifest, MixtureManifest)
    assert (again.kind, again.parts) == ("mixture", {"mixture", "covariates", "precision"})
    assert again.manifest.table == draft.table
    assert again.manifest.method == draft.method
    for name, value in draft.tensors.items():
        assert np.array_equal(again.tensor(name).numpy(), value)
    assert sorted(path.name for path in fitted.path.iterdir()) == [
        "contribution.json",
        "mixture.safetensors",
        "statistics.safetensors",
    ]


@pytest.mark.parametrize(
    ("family", "outputs", "experts", "components"),
    [("gaussian", 1, 1, 1), ("gaussian", 2, 3, None), ("multinomial", 3, 2, 2), ("poisson", 1, 2, 1)],
)
def test_every_family_survives_the_round_trip(
    tmp_path: Path,
    make_mixture: Make,
    make_mixture_method: MakeMethod,
    make_table: MakeTable,
    family: str,
    outputs: int,
    experts: int,
    components: int | None,
) -> None:
    method = make_mixture_method(family=family, n_outputs=outputs, n_experts=experts)
    classes = tuple(f"c{i}" for i in range(outputs)) if family == "multinomial" else None
    target = ("y",) if classes else tuple(f"y{i}" for i in range(outputs))
    statistics = (PrecisionStatistic(),) if components is None else (CovariatesStatistic(components=components),)
    needs = dict(method.parts()[0].required or {}) | dict(statistics[0].part(method).required or {})
    tensors = {name: np.random.default_rng(1).uniform(1, 2, size=need.shape) for name, need in needs.items()}
    draft = make_mixture(
        method=method, table=make_table(target=target, classes=classes), statistics=statistics, tensors=tensors
    )
    found = read(write(tmp_path / "x", draft).path)
    assert needs_of(found.manifest).keys() == tensors.keys()
    assert all(np.array_equal(found.tensor(name).numpy(), value) for name, value in tensors.items())


def test_a_summary_survives_the_format(tmp_path: Path, make_mixture: Make) -> None:
    rows = np.random.default_rng(0).normal(size=(60, 2)) @ [[1.0, 0.5], [0.0, 2.0]]
    summary = CovariateSummary.from_rows(rows, components=2, minimum_rows=5)
    arrays = {f"covariates.{name}": array for name, array in summary.arrays().items()}
    draft = make_mixture(tensors={**make_mixture().tensors, **arrays})
    found = read(write(tmp_path / "x", draft).path)
    names = ("counts", "means", "covariances")
    again = CovariateSummary.from_arrays(*(found.tensor(f"covariates.{name}").numpy() for name in names))
    assert again.arrays().keys() == summary.arrays().keys()
    assert all(np.array_equal(again.arrays()[name], array) for name, array in summary.arrays().items())


def test_it_is_a_few_kilobytes(tmp_path: Path, make_mixture: Make, make_mixture_method: MakeMethod) -> None:
    method = make_mixture_method(n_experts=4, n_features=20)
    table = TableReference(features=tuple(f"x{i}" for i in range(20)), units=("",) * 20, target=("y",), classes=None)
    tensors = {name: np.ones(shape) for name, shape in shapes(method).items()}
    plain = write(tmp_path / "x", make_mixture(method=method, table=table, tensors=tensors, statistics=()))
    types = {name: ("F64", shape) for name, shape in shapes(method).items()}
    assert (plain.path / "mixture.safetensors").stat().st_size == len(header.build(types)) + 8 * 172
    assert plain.bytes < 6000


def test_answers_to_candidates(tmp_path: Path, make_likelihoods: Make) -> None:
    draft = make_likelihoods()
    found = read(write(tmp_path / "x", draft).path)
    assert isinstance(found.manifest, LikelihoodsManifest)
    assert (found.kind, found.parts) == ("likelihoods", {"likelihoods"})
    assert found.manifest.method == draft.method
    assert found.tensor("likelihoods.values").tolist() == [-310.0, -300.5]
    assert releases(found.manifest) == ("likelihoods",)
    assert "statistics" not in describe(found)


@pytest.mark.parametrize("candidates", [(), ("sha256:" + "0" * 64,) * 2, ("two",), ["sha256:" + "0" * 64]])
def test_candidates_are_named_once_by_digest(candidates: Any) -> None:
    with pytest.raises(ValidationError, match=r"candidates|named twice"):
        LikelihoodsMethod(candidates=candidates, rows=1)


# What is declared, and at what price


def test_parts_releases_and_description(fitted: Contribution) -> None:
    manifest = fitted.manifest
    assert isinstance(manifest, MixtureManifest)
    assert [part.name for part in parts_of(manifest)] == ["mixture", "covariates", "precision"]
    assert releases(manifest) == ("mixture", "covariates", "precision", "training")
    silent = manifest.model_copy(update={"method": manifest.method.model_copy(update={"log_likelihood": None})})
    assert releases(silent) == ("mixture", "covariates", "precision")
    summary = describe(fitted)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert summary["table"] == {
        "features": ["Größe", "weight"],
        "units": ["cm", ""],
        "target": ["systolic"],
        "classes": None,
    }
    assert summary["parts"]["mixture"]["elements"] == 3 * 3 + 3 * 3 + 3
    assert summary["method"]["rows"] == 100
    assert "base" not in summary
    assert "training" not in summary


@pytest.mark.parametrize("part", ["mixture", "covariates", "precision", "training"])
def test_what_leaves_without_an_event_is_refused(tmp_path: Path, make_mixture: Make, part: str) -> None:
    privacy = tuple(event for event in make_mixture().privacy if event.released != part)
    with pytest.raises(MalformedContribution, match=f"'{part}': it leaves the party") as caught:
        write(tmp_path / "x", make_mixture(privacy=privacy))
    assert caught.value.what == f"'{part}'"


def test_events_of_a_table_protect_rows_and_those_of_text_documents(
    tmp_path: Path, make_mixture: Make, make_draft: Make
) -> None:
    draft = make_mixture()
    wrong = (*draft.privacy[1:], ExactEvent(released="mixture"))
    with pytest.raises(MalformedContribution, match=r"'mixture'.*a document.*kind 'mixture' is a row"):
        write(tmp_path / "x", make_mixture(privacy=wrong))
    events = make_draft().privacy
    with pytest.raises(MalformedContribution, match=r"'last-year'.*a row.*kind 'expert' is a document"):
        write(tmp_path / "y", make_draft(privacy=(*events, ExactEvent(released="last-year", unit="row"))))
    unknown = OtherEvent(mechanism="m", released="r", unit="person")
    assert write(tmp_path / "z", make_mixture(privacy=(*draft.privacy, unknown)))


def test_a_noisy_part_has_a_price_of_its_own_and_the_whole_has_none(fitted: Contribution) -> None:
    events = fitted.manifest.privacy
    assert 0 < price([event for event in events if event.released == "covariates"], delta=1e-6) < 2
    assert price(events, delta=1e-6) == math.inf


def test_a_gaussian_event_is_kept_as_it_came(fitted: Contribution) -> None:
    (event,) = [event for event in read(fitted.path).manifest.privacy if event.released == "covariates"]
    assert event == GaussianEvent(released="covariates", unit="row", sigma=8.0, sensitivity=2.0)
