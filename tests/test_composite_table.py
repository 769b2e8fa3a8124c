"""A composed mixture on tables: its files, its estimator, and what cannot be opened."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

import table_machines as tm
from quiltwork.compose.aligned_average import AlignedAverage
from quiltwork.compose.ambient import AmbientMixture
from quiltwork.compose.middle import Middle
from quiltwork.compose.reduction import Reduction
from quiltwork.compose.reopen import METHODS, make_table_method, open_any, open_table_composite
from quiltwork.compose.tables import Local, Solution, Table, TableMethod
from quiltwork.composite import (
    PROVENANCE,
    Entry,
    Provenance,
    TableComposite,
    open_composite,
    saved_kind,
    saved_layout,
)
from quiltwork.contribution.canonical import encode
from quiltwork.errors import CheckpointError, ExportError, InvalidOption, QuiltworkError, StorageError

X = tm.covariates(30, 99)


def composite(
    family: str = "gaussian", method: TableMethod | None = None, locals_: Sequence[Local] | None = None
) -> TableComposite:
    """A composite put together without contributions."""
    machines = tuple(locals_ or tm.machines(family))
    method = method or AlignedAverage()
    entries = tuple(Entry(local.party, local.digest, local.licence) for local in machines)
    return TableComposite(method, tm.TABLES[family], machines, Provenance(None, method.name, entries))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return composite().save(tmp_path / "saved")


def edit(place: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change quiltwork.json as somebody would who knows how its digest is made."""
    value = json.loads((place / PROVENANCE).read_text())
    change(value)
    value.pop("digest", None)
    value["digest"] = "sha256:" + hashlib.sha256(encode(value)).hexdigest()
    (place / PROVENANCE).write_bytes(encode(value))


def rewrite(place: Path, file: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a tensor file and every digest that names it."""
    tensors: dict[str, Any] = load_file(place / file)
    change(tensors)
    save_file(tensors, place / file)
    reseal(place, file)


def reseal(place: Path, file: str) -> None:
    digest = "sha256:" + hashlib.sha256((place / file).read_bytes()).hexdigest()

    def put(value: dict[str, Any]) -> None:
        if file == "model.safetensors":
            value["model"] = digest
        for machine in value["contributions"]:
            if file == f"party-{machine['party']}.safetensors":
                machine["file"] = digest

    edit(place, put)


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
    for name, kind in METHODS.items():
        assert kind().name == name


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda v: v.update(version=2), "version"),
        (lambda v: v.update(format="other"), "format"),
        (lambda v: v.update(layout="sideways"), "layout"),
        (lambda v: v.update(base="sha256:0"), "base"),
        (lambda v: v.pop("method"), "method"),
        (lambda v: v.update(surprise=1), "surprise"),
        (lambda v: v.update(contributions=[]), "contributions"),
        (lambda v: v["contributions"].reverse(), "not sorted"),
        (lambda v: v["contributions"].append(v["contributions"][-1]), "there twice"),
        (lambda v: v["contributions"][0].update(party="../ash"), "party"),
        (lambda v: v["contributions"][0].update(rows=0), "rows"),
        (lambda v: v["contributions"][0].update(rows=1.5), "rows"),
        (lambda v: v["contributions"][0].update(converged=1), "converged"),
        (lambda v: v["contributions"][0].update(licence="\x1b[31m"), "licence"),
        (lambda v: v.update(excluded={"oak": "why"}), "excluded who is not there"),
        (lambda v: v["table"].update(units=["years"]), "units"),
        (lambda v: v["table"].update(features=["age", "age"]), "twice"),
        (lambda v: v["table"].update(classes=["a", "b"]), "classes belong to multinomial"),
        (lambda v: v.update(family="multinomial"), "classes belong to multinomial"),
        (lambda v: v.update(family="cauchy"), "family"),
        (lambda v: v.update(gate="logistic"), "gate"),
        (lambda v: v.update(model="sha256:" + "0" * 64), "its digest is not the one"),
        (lambda v: v["contributions"][1].update(file="sha256:" + "0" * 64), "its digest is not the one"),
        (lambda v: v.update(method="soup"), "this installation knows aligned_average"),
        (lambda v: v.update(method="os.system"), "this installation knows aligned_average"),
        (lambda v: v["options"].pop("seed"), "it lacks option 'seed'"),
        (lambda v: v["options"].update(code="x"), "it has no option 'code'"),
        (lambda v: v["options"].update(seed="0"), "seed"),
        (lambda v: v["options"].update(seed=-1), "seed=-1"),
        (lambda v: v["options"].update(robust=1), "robust"),
        (lambda v: v["options"].update(support=0), "support=0"),
        (lambda v: v["options"].update(support=1.5), "support"),
    ],
)
def test_a_record_that_says_otherwise_is_refused(
    change: Callable[[dict[str, Any]], object], why: str, saved: Path
) -> None:
    edit(saved, change)
    with pytest.raises(CheckpointError) as caught:
        open_table_composite(saved)
    assert why in str(caught.value)


def test_a_changed_field_without_a_new_digest_is_refused(saved: Path) -> None:
    text = (saved / PROVENANCE).read_text()
    (saved / PROVENANCE).write_text(text.replace('"rows": 100', '"rows": 101'))
    with pytest.raises(CheckpointError, match="it is not the digest of the other fields"):
        open_any(saved)


def test_another_spelling_is_refused(saved: Path) -> None:
    value = json.loads((saved / PROVENANCE).read_text())
    (saved / PROVENANCE).write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match="not the canonical spelling"):
        open_any(saved)


@pytest.mark.parametrize("file", ["model.safetensors", "party-birch.safetensors"])
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t.pop("mixture.gate"), "'mixture.gate'"),
        (lambda t: t.update({"mixture.gate": np.zeros((3, 4))}), "its shape is [3, 4]"),
        (lambda t: t.update({"mixture.gate": np.full((3, 3), np.inf)}), "not finite"),
        (lambda t: t.update({"mixture.variances": -np.ones((3, 1))}), "not positive"),
        (lambda t: t.update({"mixture.gate": np.zeros((3, 3), dtype=np.float32)}), "not float64"),
    ],
)
def test_tensors_that_are_no_mixture_are_refused(
    file: str, change: Callable[[dict[str, Any]], object], why: str, saved: Path
) -> None:
    rewrite(saved, file, change)
    with pytest.raises(CheckpointError) as caught:
        open_table_composite(saved)
    assert why in str(caught.value)


def test_a_summary_that_describes_no_rows_is_refused(saved: Path) -> None:
    negative = -np.stack([np.eye(2), np.eye(2)])
    rewrite(saved, "party-ash.safetensors", lambda t: t.update({"covariates.covariances": negative}))
    with pytest.raises(CheckpointError, match=r"party-ash\.safetensors"):
        open_table_composite(saved)


@pytest.mark.parametrize("data", [b"", b"\x00" * 7, b"\xff" * 64, b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_files_that_are_no_tensors_are_refused(data: bytes, saved: Path) -> None:
    (saved / "model.safetensors").write_bytes(data)
    reseal(saved, "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors|mixture\.gate"):
        open_table_composite(saved)


@pytest.mark.parametrize("file", ["model.safetensors", "party-elm.safetensors", "quiltwork.json"])
def test_a_missing_file_is_refused(file: str, saved: Path) -> None:
    (saved / file).unlink()
    with pytest.raises(CheckpointError, match=file.replace(".", r"\.")):
        open_any(saved)


@pytest.mark.parametrize("file", ["model.safetensors", "party-elm.safetensors"])
def test_links_are_not_followed(file: str, saved: Path, tmp_path: Path) -> None:
    (saved / file).rename(tmp_path / file)
    os.symlink(tmp_path / file, saved / file)
    with pytest.raises(CheckpointError, match="symbolic link"):
        open_any(saved)


def test_a_file_beyond_all_bounds_is_refused_unread(saved: Path) -> None:
    with (saved / "model.safetensors").open("ab") as file:
        file.truncate(2**31)
    with pytest.raises(CheckpointError, match="the limit is"):
        open_any(saved)


def test_a_directory_that_is_none_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(QuiltworkError):
            open_any(path)
        with pytest.raises(CheckpointError):
            open_table_composite(path)


def test_options_are_checked_against_the_method_s_fields() -> None:
    where = Path("quiltwork.json")
    options: Mapping[str, Any] = {"support": 10, "seed": 1, "robust": False}
    assert make_table_method("aligned_average", options, where) == AlignedAverage(10, 1, False)
    with pytest.raises(CheckpointError, match="has no option 'weights'"):
        make_table_method("aligned_average", {**options, "weights": 1}, where)


def test_an_opened_composite_needs_nothing_but_its_directory(saved: Path, tmp_path: Path) -> None:
    moved = saved.rename(tmp_path / "moved")
    opened = open_table_composite(moved)
    again = opened.without("cedar").save(tmp_path / "rest")
    assert open_table_composite(again).parties == ("ash", "birch", "elm")
    assert np.array_equal(opened.mixture.mean(X), composite().mixture.mean(X))
