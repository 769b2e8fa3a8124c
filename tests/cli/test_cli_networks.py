"""Networks from end to end as a user types it: compose, inspect, add, remove, predict, export."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runner import done, files, misused, refused

import network_parties as parties
from quiltwork.cli.catalog import NETWORKS
from quiltwork.compose.reopen import open_network_composite

Composed = Callable[..., Path]


@pytest.fixture(scope="module")
def handed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, list[Path]]:
    """What each party hands over: a module with statistics; ash also sums about itself and birch."""
    place = tmp_path_factory.mktemp("handed")
    found = {
        p: [parties.release(place, p, one=parties.network(p), parts=("inputs", "classes"))] for p in parties.PARTIES
    }
    found["ash"].append(parties.release_pair(place, "ash", found["ash"][0], found["birch"][0]))
    return {party: [one.path for one in its] for party, its in found.items()}


@pytest.fixture(scope="module")
def composed(handed: Mapping[str, list[Path]], tmp_path_factory: pytest.TempPathFactory) -> Composed:
    """``composed(method, *options)``: of ash and birch."""
    place = tmp_path_factory.mktemp("composed-networks")

    @cache
    def build(method: str, *options: object) -> Path:
        out = place / f"{method}{len(options)}"
        done("compose", *handed["ash"], *handed["birch"], "--method", method, *options, "--out", out)
        return out

    return build


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of images without labels."""
    path = tmp_path_factory.mktemp("images") / "new.npz"
    np.savez(path, inputs=parties.inputs(rows=7))
    return path


# Compose ----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["combine", "stitch", "gaussian_head"])
def test_each_method_composes_without_a_base(method: str, composed: Composed) -> None:
    composite = open_network_composite(composed(method))
    assert composite.method.name == method
    assert composite.parties == ("ash", "birch")


def test_what_is_set_aside_is_told(handed: Mapping[str, list[Path]], tmp_path: Path) -> None:
    outcome = done("compose", *handed["ash"], "--method", "combine", "--out", tmp_path / "alone")
    assert "set aside: stitch_statistics of ash (sha256:" in outcome.err


def test_one_party_alone_and_copies_in_a_soup(handed: Mapping[str, list[Path]], tmp_path: Path) -> None:
    every = [path for paths in handed.values() for path in paths]
    done("compose", *every, "--method", "network_alone", "--include", "birch", "--out", tmp_path / "alone")
    assert open_network_composite(tmp_path / "alone").parties == ("birch",)
    one = parties.network("ash")
    copies = [parties.release(tmp_path, name, one=one).path for name in ("elm", "fir")]
    done("compose", *copies, "--method", "network-soup", "--weight", "elm=3", "--out", tmp_path / "soup")
    soup = open_network_composite(tmp_path / "soup")
    assert np.array_equal(soup.outputs(parties.inputs()), one(torch.from_numpy(parties.inputs())).double().numpy())


def test_options_reach_the_method(handed: Mapping[str, list[Path]], tmp_path: Path) -> None:
    words = ("--weighting", "evidence", "--evidence", "classes", "--prior", "rows", "--floor", 30, "--temperature", 2)
    both = (*handed["ash"], *handed["birch"])
    told = done("compose", *both, "--method", "combine", *words, "--rule", "logit", "--out", tmp_path / "a", "--json")
    evidence = {"of": "classes", "prior": "rows", "floor": 30.0, "temperature": 2.0}
    assert told.json["options"] == {"rule": "logit", "weights": "evidence", "evidence": evidence}
    more = ("--pair", "birch, ash", "--points", "deep,first", "--one-way", "--mode", "replace", "--ridge", 0.5)
    told = done("compose", *both, "--method", "stitch", *more, "--out", tmp_path / "b", "--json")
    wanted = {"pair": ["birch", "ash"], "points": ["deep", "first"], "both": False, "mode": "replace", "ridge": 0.5}
    assert {name: told.json["options"][name] for name in wanted} == wanted
    head = ("--method", "gaussian_head", "--form", "qda", "--shrinkage", 0.2)
    told = done("compose", *both, *head, "--out", tmp_path / "c", "--json")
    assert told.json["options"] == {"form": "qda", "shrinkage": 0.2}


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--method", "combine", "--base", "b"), ("--base", "networks")),
        (("--method", "combine", "--form", "qda"), ("option 'form'", "combine")),
        (("--method", "combine", "--rule", "loudest"), ("loudest", "probability")),
        (("--method", "combine", "--weighting", "stacked"), ("stacked", "quiltwork contribute outputs")),
        (("--method", "combine", "--weight", "yew=2"), ("yew", "ash, birch")),
        (("--method", "stitch", "--pair", "ash"), ("--pair 'ash'", "ONE,OTHER")),
        (("--method", "stitch", "--pair", "ash,yew"), ("'yew'", "ash, birch")),
        (("--method", "stitch", "--pair", "ash,birch", "--points", "nowhere,deep"), ("nowhere", "first")),
        (("--method", "network_alone"), ("ash, birch",)),
        (("--method", "network_soup"), ("party 'birch'", "graph")),
        (("--method", "reduction"), ("party 'ash'",)),
    ],
)
def test_a_wrong_option_is_refused(
    options: tuple[object, ...], names: tuple[str, ...], handed: Mapping[str, list[Path]], tmp_path: Path
) -> None:
    refused("compose", *handed["ash"], *handed["birch"], *options, "--out", tmp_path / "out", names=names)
    assert list(tmp_path.iterdir()) == []


def test_candidates_are_composites_for_owners_to_evaluate(handed: Mapping[str, list[Path]], tmp_path: Path) -> None:
    both = (*handed["ash"], *handed["birch"])
    out = done("compose", *both, "--method", "stitch", "--candidates", 2, "--out", tmp_path / "c", "--json")
    assert len(out.json["candidates"]) == 2
    for name, path in out.json["candidates"].items():
        method = open_network_composite(Path(path)).method
        assert name == f"ash.{method.points[0]}+birch.{method.points[1]}"  # type: ignore[attr-defined]
    refused("compose", *both, "--method", "combine", "--candidates", 2, "--out", tmp_path / "d", names="--candidates")
    refused("compose", *both, "--method", "stitch", "--candidates", 0, "--out", tmp_path / "d", names="count=0")


def test_the_help_lists_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    shown = done("compose", "--help").out
    assert all(name in shown for name in NETWORKS)


# Inspect, join and leave ------------------------------------------------------


def test_inspect_tells_task_parties_and_what_was_found(composed: Composed) -> None:
    out = done("inspect", composed("stitch")).out
    for words in ("1 x 6 x 6 in 0..1", "no, maybe, yes", "ash: module, LicenseRef-ash", "birch", "closed form"):
        assert words in out, out
    assert json.loads(done("inspect", composed("stitch"), "--json").out)["layout"] == "network"


@pytest.mark.parametrize("method", ["combine", "stitch", "gaussian_head"])
def test_leaving_is_never_having_been_there_and_joining_brings_it_back(
    method: str, handed: Mapping[str, list[Path]], composed: Composed, tmp_path: Path
) -> None:
    whole = composed(method)
    out = done("remove", whole, "--party", "birch", "--out", tmp_path / "left", "--json")
    assert out.json["removed"] == ["birch"]
    done("compose", *handed["ash"], "--method", method, "--out", tmp_path / "never")
    assert files(tmp_path / "left") == files(tmp_path / "never") != files(whole)
    assert not any("birch" in name for name in files(tmp_path / "left"))
    again = (*handed["birch"], handed["ash"][1])
    done("add", tmp_path / "left", *again, "--out", tmp_path / "joined")
    assert files(tmp_path / "joined") == files(whole)


def test_who_cannot_join_or_leave_is_named(
    handed: Mapping[str, list[Path]], composed: Composed, tmp_path: Path
) -> None:
    other = parties.release(tmp_path, "ash", one=parties.network("ash", 5)).path
    out = ("--out", tmp_path / "out")
    refused("add", composed("combine"), other, *out, names=("party 'ash'", "'module'"))
    refused("remove", composed("combine"), "--party", "yew", *out, names=("party 'yew'", "ash, birch"))
    refused("add", handed["ash"][0], other, *out, names=str(handed["ash"][0]))
    misused("add", composed("combine"), *out, names="CONTRIBUTIONS")


def test_a_changed_byte_is_refused_by_every_verb(composed: Composed, images: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    done("remove", composed("combine"), "--party", "birch", "--out", whole)
    path = next((whole / "contributions").rglob("module.safetensors"))
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    name = "module.safetensors"
    refused("inspect", whole, names=name)
    refused("remove", whole, "--party", "ash", "--out", tmp_path / "o", names=name)
    refused("predict", whole, "--data", images, "--out", tmp_path / "p.csv", names=name)
    refused("export", whole, "--out", tmp_path / "m.pt2", names=name)
    path.unlink()
    refused("inspect", whole, names=name)


# Predict and export -----------------------------------------------------------


def test_predictions_are_those_of_the_composite(composed: Composed, images: Path, tmp_path: Path) -> None:
    composite = open_network_composite(composed("combine"))
    expected = composite.predict_proba(parties.inputs(rows=7))
    out = done("predict", composed("combine"), "--data", images, "--out", tmp_path / "p.csv", "--json")
    assert out.json["columns"] == ["class", "class=no", "class=maybe", "class=yes"]
    with (tmp_path / "p.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert np.allclose([[float(cell) for cell in row[1:]] for row in rows], expected)
    assert [row[0] for row in rows] == composite.predict(parties.inputs(rows=7)).tolist()
    done("predict", composed("combine"), "--data", images, "--out", tmp_path / "p.npz")
    with np.load(tmp_path / "p.npz") as archive:
        assert np.array_equal(archive["class=yes"], expected[:, 2])


def test_inputs_that_do_not_fit_are_refused(composed: Composed, images: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "wide.npz", inputs=np.zeros((2, 1, 5, 5), dtype=np.float32))
    np.savez(tmp_path / "bright.npz", inputs=np.full((2, 1, 6, 6), 200.0))
    words = ("predict", composed("combine"), "--out", tmp_path / "p.csv", "--data")
    refused(*words, tmp_path / "wide.npz", names="(1, 6, 6)")
    refused(*words, tmp_path / "bright.npz", names=("0..1", "bright.npz"))
    refused(*words, images, "--quantiles", "0.5", names="--quantiles")
    parquet = ("predict", composed("combine"), "--data", images, "--out", tmp_path / "p.parquet")
    refused(*parquet, names=("p.parquet", ".npz"))


def test_an_exported_file_computes_the_same(composed: Composed, tmp_path: Path) -> None:
    x = parties.inputs(rows=4)
    stitched = open_network_composite(composed("stitch"))
    done("export", composed("stitch"), "--out", tmp_path / "m.pt2")
    out = done(
        "export", composed("stitch"), "--out", tmp_path / "e.bin", "--format", "pt2", "--setting", "ash", "--json"
    )
    assert (out.json["format"], out.json["setting"]) == ("pt2", "ash")
    for name, setting in {"m.pt2": "stitched", "e.bin": "ash"}.items():
        with torch.no_grad():
            found = torch.export.load(tmp_path / name).module()(torch.from_numpy(x)).numpy()
        stitched.model().set(setting)
        assert np.allclose(found, stitched.outputs(x), atol=1e-5)


def test_an_export_that_cannot_be_is_refused(
    composed: Composed, handed: Mapping[str, list[Path]], tmp_path: Path
) -> None:
    refused("export", composed("stitch"), "--out", tmp_path / "model.h5", names=("model.h5", "--format"))
    refused("export", composed("stitch"), "--out", tmp_path / "m.pt2", "--setting", "yew", names=("yew", "ensemble"))
    refused("export", composed("combine"), "--out", tmp_path / "m.pt2", "--setting", "ash", names=("'ash'", "combine"))
    refused("export", handed["ash"][0], "--out", tmp_path / "m.pt2", names=str(handed["ash"][0]))
    (tmp_path / "m.pt2").write_text("mine")
    refused("export", composed("combine"), "--out", tmp_path / "m.pt2", names="m.pt2")
    assert (tmp_path / "m.pt2").read_text() == "mine"
