"""A composed mixture on tables: its files, its estimator, and what cannot be opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

import table_machines as tm
from quiltwork.compose.aligned_average import AlignedAverage
from quiltwork.compose.ambient import AmbientMixture
from quiltwork.compose.middle import Middle
from quiltwork.compose.reduction import Reduction
from quiltwork.compose.reopen import open_any, open_table_composite, table_methods
from quiltwork.compose.tables import Local, Solution, Table, TableMethod
from quiltwork.composite import (
    PROVENANCE,
    TableComposite,
    open_composite,
    saved_kind,
    saved_layout,
)
from quiltwork.errors import CheckpointError, ExportError, InvalidOption, StorageError
from table_machines import composite

X = tm.covariates(30, 99)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return composite().save(tmp_path / "saved")


# What it is.


def test_it_knows_its_parties_and_its_model() -> None:
    made = composite()
    assert made.parties == tm.PARTIES
    assert made.solution is made.solution
    assert made.mixture is made.solution.mixture
    assert made.without("elm").parties == ("ash", "birch", "cedar")
    assert made.without("elm").provenance.contributions == made.provenance.contributions[:-1]


def test_strangers_and_last_parties_do_not_leave() -> None:
    with pytest.raises(InvalidOption, match=r"party 'oak'.*The parties are: ash, birch, cedar, elm"):
        composite().without("oak")
    alone = composite().without("ash").without("birch").without("cedar")
    assert alone.parties == ("elm",)
    with pytest.raises(ExportError, match="the only one left"):
        alone.without("elm")


@pytest.mark.parametrize("method", [AlignedAverage(), AmbientMixture(), AmbientMixture("evidence")])
@pytest.mark.parametrize("family", tm.TABLES)
def test_the_estimator_predicts_what_the_mixture_does(family: str, method: TableMethod) -> None:
    made = composite(family, method)
    table = pd.DataFrame(X, columns=list(tm.FEATURES))
    model: Any = made.model()
    mean = made.mixture.mean(X)
    if family == "multinomial":
        assert list(model.classes_) == ["none", "mild", "severe"]
        assert np.allclose(model.predict_proba(table), mean)
        assert list(model.predict(table)) == [("none", "mild", "severe")[i] for i in mean.argmax(axis=1)]
    else:
        assert np.allclose(model.predict(table), mean if family == "gaussian-2" else mean[:, 0])
    assert list(model.feature_names_in_) == list(tm.FEATURES)
    with pytest.raises(ValueError, match="feature names"):
        model.predict(table.rename(columns={"dose": "weight"}))


# What it writes.


def test_the_directory_holds_each_machine_s_fit_and_the_model(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [
        "README.md",
        "model.safetensors",
        "party-ash.safetensors",
        "party-birch.safetensors",
        "party-cedar.safetensors",
        "party-elm.safetensors",
        "quiltwork.json",
    ]
    value = json.loads((saved / PROVENANCE).read_text())
    assert value == composite().to_json()
    assert (value["layout"], value["base"], value["method"]) == ("table", None, "aligned_average")
    assert value["options"] == {"support": 200, "seed": 0, "robust": True}
    assert value["table"]["units"] == ["years", "mg"]
    model = load_file(saved / "model.safetensors")
    assert sorted(model) == ["mixture.coefficients", "mixture.gate", "mixture.variances"]
    assert np.array_equal(model["mixture.coefficients"], composite().mixture.experts.coefficients)


def test_the_ambient_model_is_written_machine_after_machine(tmp_path: Path) -> None:
    made = composite(method=AmbientMixture())
    model = load_file(made.save(tmp_path / "out") / "model.safetensors")
    assert model["machines.experts"].tolist() == [3.0, 3.0, 3.0, 3.0]
    assert model["machines.weights"].tolist() == [100.0, 140.0, 180.0, 220.0]
    first = made.locals[0].mixture
    assert np.array_equal(model["mixture.coefficients"][:3], first.experts.coefficients)
    assert np.array_equal(model["mixture.gate"][:3], first.gate.coefficients)  # type: ignore[attr-defined]


def test_the_card_says_who_is_in_it_and_who_was_left_out(tmp_path: Path) -> None:
    good = [tm.machine("gaussian", f"m{i}", seed=i) for i in range(6)]
    bad = tm.machine("gaussian", "zinc", seed=50, noise=6.0)
    place = composite(locals_=[*good, bad]).save(tmp_path / "out")
    card = (place / "README.md").read_text()
    assert "library_name: quiltwork" in card
    assert "`age` (years), `dose` (mg)" in card
    assert "| m3 | `sha256:" in card
    assert "- zinc: its fit stands" in card
    assert "zinc" in json.loads((place / PROVENANCE).read_text())["excluded"]
    opened = open_table_composite(place)
    assert list(opened.solution.excluded) == ["zinc"]
    assert opened.without("zinc").solution.excluded == {}


def test_text_of_strangers_cannot_break_the_card(tmp_path: Path) -> None:
    machines = [replace(tm.machine("gaussian", "ash", seed=0), licence="MIT | `x`\n\n# Owned")]
    table = replace(tm.TABLES["gaussian"], features=("age`|", "dose"))
    made = replace(composite(locals_=machines), table=table)
    card = (made.save(tmp_path / "out") / "README.md").read_text()
    assert "\n# Owned" not in card
    assert "MIT \\| 'x' # Owned" in card
    assert "`age'\\|`" in card


def test_nothing_is_overwritten_unasked(saved: Path) -> None:
    before = (saved / PROVENANCE).read_bytes()
    with pytest.raises(StorageError, match="already there"):
        composite(method=Middle()).save(saved)
    assert (saved / PROVENANCE).read_bytes() == before
    composite(method=Middle()).save(saved, overwrite=True)
    assert open_table_composite(saved).method == Middle()


def test_an_interrupted_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = Path.write_bytes, []

    def interrupted(self: Path, data: bytes) -> int:
        calls.append(self)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        composite().save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_many_machines_are_written_and_opened(tmp_path: Path) -> None:
    machines = [tm.machine("gaussian", f"m{i:03d}", seed=i) for i in range(128)]
    place = composite(method=AmbientMixture(), locals_=machines).save(tmp_path / "out")
    assert open_table_composite(place).mixture.n_experts == 384


@dataclass(frozen=True)
class Callback:
    """A method with an option that is no data."""

    call: Callable[[], int] = field(default=lambda: 0)
    name: str = "callback"

    def needs(self) -> frozenset[str]:
        return frozenset({"mixture"})

    def solve(self, table: Table, locals: Sequence[Local]) -> Solution:
        return Solution(locals[0].mixture)


@dataclass(frozen=True)
class Endless(Callback):
    """A method whose objective is not a number."""

    call: None = None  # type: ignore[assignment]
    name: str = "endless"

    def solve(self, table: Table, locals: Sequence[Local]) -> Solution:
        return Solution(locals[0].mixture, objective=(float("inf"),))


def test_options_that_are_no_data_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="method 'callback': its options cannot be written as JSON"):
        composite(method=Callback()).save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_objective_that_is_no_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"'objective.0' of the composite"):
        composite(method=Endless()).save(tmp_path / "out")


def test_a_name_that_is_no_party_s_is_refused(tmp_path: Path) -> None:
    stranger = tm.machine("gaussian", "../ash", seed=0)
    with pytest.raises(ExportError, match=r"'party' of the composite"):
        composite(locals_=[stranger]).save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# What it opens.


@pytest.mark.parametrize(
    "method",
    [
        AlignedAverage(support=50, seed=7, robust=False),
        Middle("relaxed"),
        AmbientMixture("evidence"),
        Reduction(2, support=60, gate="projection", robust=False, tolerance=1e-6),
        Reduction(3, support=((0.0, 0.0), (1.0, -1.0), (0.5, 2.0), (-1.0, 0.0))),
    ],
)
def test_the_method_comes_back_with_its_options(method: TableMethod, tmp_path: Path) -> None:
    opened = open_any(composite(method=method).save(tmp_path / "out"))
    assert isinstance(opened, TableComposite)
    assert opened.method == method
    assert opened.table == tm.TABLES["gaussian"]


def test_what_it_is_can_be_asked_without_opening_it(saved: Path) -> None:
    assert saved_kind(saved) == "table"
    with pytest.raises(CheckpointError, match="names no known layout"):
        saved_layout(saved)
    with pytest.raises(InvalidOption, match="it holds a mixture on tables") as caught:
        open_composite(saved)
    assert "open_any" in caught.value.mend


def test_the_table_of_methods_names_each_as_it_names_itself() -> None:
    for name, kind in table_methods().items():
        assert kind().name == name


def test_an_opened_composite_needs_nothing_but_its_directory(saved: Path, tmp_path: Path) -> None:
    moved = saved.rename(tmp_path / "moved")
    opened = open_table_composite(moved)
    again = opened.without("cedar").save(tmp_path / "rest")
    assert open_table_composite(again).parties == ("ash", "birch", "elm")
    assert np.array_equal(opened.mixture.mean(X), composite().mixture.mean(X))
