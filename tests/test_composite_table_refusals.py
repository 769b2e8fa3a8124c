"""Directories that claim to be a composed mixture on tables and are refused, whoever resealed them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from quiltwork.compose.aligned_average import AlignedAverage
from quiltwork.compose.reopen import make_table_method, open_any, open_table_composite
from quiltwork.composite import PROVENANCE
from quiltwork.contribution.canonical import encode
from quiltwork.errors import CheckpointError, QuiltworkError
from table_machines import composite


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
