"""A public basis: owners summarise their inputs by it, and whoever composes weighs networks in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_runner import done, files, refused
from scipy.stats import multivariate_normal

import network_parties as parties
from quiltwork.compose.reopen import open_network_composite
from quiltwork.contribution.store import read

PAIR = ("ash", "birch")
EMBEDDED = ("--embedding", "module:basis", "--embedding-network")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A basis of public images, modules of two parties, and moments of their inputs in the basis."""
    folder = tmp_path_factory.mktemp("basis")
    np.savez(folder / "public.npz", inputs=np.concatenate([parties.inputs(p, seed=8) for p in parties.PARTIES]))
    words = ("contribute", "basis", "--data", folder / "public.npz", "--units", "0..1", "--dimension", 4)
    done(*words, "--party", "public", "--out", folder / "basis")
    names = np.array(parties.CLASSES)
    for party in PAIR:
        done_module = parties.release(folder, party, one=parties.network(party))
        done_module.path.rename(folder / party)
        np.savez(folder / f"{party}.npz", inputs=parties.inputs(party), labels=names[parties.labels(party)])
        more = ("--units", "0..1", "--classes", ",".join(parties.CLASSES), "--class-moments", "pooled")
        told = ("--data", folder / f"{party}.npz", *more, *EMBEDDED, folder / "basis", "--party", party)
        done("contribute", "moments", *told, "--out", folder / f"{party}-moments")
    return folder


def given(place: Path, *names: str) -> list[Path]:
    return [place / name for name in names]


EVERY = ("basis", "ash", "birch", "ash-moments", "birch-moments")


def components(images: np.ndarray) -> np.ndarray:
    """The basis with numpy alone; signs do not matter to a density."""
    rows = np.concatenate([parties.inputs(p, seed=8) for p in parties.PARTIES]).reshape(-1, 36).astype(np.float64)
    _, _, right = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    return (images.reshape(-1, 36) - rows.mean(axis=0)) @ right[:4].T


def test_weights_are_the_posterior_in_that_space(place: Path, tmp_path: Path) -> None:
    words = ("--method", "combine", "--weighting", "evidence", "--out", tmp_path / "c")
    done("compose", *given(place, *EVERY), *words)
    composite = open_network_composite(tmp_path / "c")
    x = parties.inputs(rows=20, seed=4)
    found = composite.predict_proba(x)
    alone = {}
    for party in PAIR:
        done("compose", place / party, "--method", "network_alone", "--out", tmp_path / party)
        alone[party] = open_network_composite(tmp_path / party).predict_proba(x)
    densities = np.stack([_density(components(parties.inputs(p)), components(x)) for p in PAIR])
    weights = np.exp(densities - densities.max(axis=0))
    weights /= weights.sum(axis=0)
    due = sum(w[:, None] * alone[p] for w, p in zip(weights, PAIR, strict=True))
    assert np.abs(found - due).max() < 0.02
    assert np.abs(found - (alone["ash"] + alone["birch"]) / 2).max() > 0.05
    assert weights.min() < 0.1


def _density(rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    return multivariate_normal(rows.mean(axis=0), np.cov(rows.T, bias=True)).logpdf(at)


def test_the_basis_has_no_vote(place: Path, tmp_path: Path) -> None:
    plain = ("--method", "combine", "--out")
    done("compose", *given(place, *EVERY), *plain, tmp_path / "a")
    done("compose", *given(place, "ash", "birch"), *plain, tmp_path / "b")
    x = parties.inputs(rows=6)
    one, other = (open_network_composite(tmp_path / name) for name in "ab")
    assert np.array_equal(one.outputs(x), other.outputs(x))
    assert one.task == other.task


def test_an_owner_leaves_and_a_head_needs_no_network_but_the_basis(place: Path, tmp_path: Path) -> None:
    for method in (("combine", "--weighting", "evidence"), ("gaussian_head",)):
        words = ("--method", *method, "--out")
        whole, left, never = (tmp_path / f"{method[0]}-{name}" for name in ("whole", "left", "never"))
        done("compose", *given(place, *EVERY), *words, whole)
        done("remove", whole, "--party", "birch", "--out", left)
        done("compose", *given(place, "basis", "ash", "ash-moments"), *words, never)
        assert files(left) == files(never) != files(whole)
    done("compose", *given(place, "basis", "ash-moments", "birch-moments"), *words, tmp_path / "head")
    assert open_network_composite(tmp_path / "head").predict_proba(parties.inputs(rows=3)).shape == (3, 3)


def test_where_nobody_uses_the_basis_any_more_the_others_stay(place: Path, tmp_path: Path) -> None:
    plain = ("--method", "combine", "--out")
    done("compose", *given(place, "basis", "ash", "birch", "birch-moments"), *plain, tmp_path / "a")
    done("remove", tmp_path / "a", "--party", "birch", "--out", tmp_path / "b")
    assert open_network_composite(tmp_path / "b").predict_proba(parties.inputs(rows=2)).shape == (2, 3)


def test_a_network_of_features_embeds_too(place: Path, tmp_path: Path) -> None:
    code = "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(36, 7)).eval()\n"
    (tmp_path / "model.py").write_text(code)
    words = ("contribute", "module", "--module", f"{tmp_path}/model.py:build", "--units", "0..1", "--outputs", 7)
    told = done(*words, "--shape", "1,6,6", "--embeds", "--party", "public", "--out", tmp_path / "f", "--json").json
    assert told["method"]["role"] == "embeds"
    done("compose", tmp_path / "f", place / "ash", "--method", "combine", "--out", tmp_path / "c")


def test_sums_about_a_network_that_embeds_join_nothing(place: Path, tmp_path: Path) -> None:
    code = (
        "from torch import nn\n\ndef build():\n"
        "    layers = nn.Flatten(), nn.Linear(36, 5), nn.ReLU(), nn.Linear(5, 3)\n"
        "    return nn.Sequential(*layers).eval()\n"
    )
    (tmp_path / "model.py").write_text(code)
    words = ("contribute", "module", "--module", f"{tmp_path}/model.py:build", "--units", "0..1", "--shape", "1,6,6")
    done(*words, "--classes", ",".join(parties.CLASSES), "--embeds", "--party", "public", "--out", tmp_path / "f")
    about = [parties.release_pair(tmp_path, "ash", read(place / "ash"), read(tmp_path / "f"))]
    about.append(parties.release_pair(tmp_path, "birch", read(place / "ash"), read(place / "birch")))
    every = (tmp_path / "f", place / "ash", place / "birch", *(one.path for one in about))
    told = done("compose", *every, "--method", "stitch", "--out", tmp_path / "c")
    assert "set aside: stitch_statistics of ash" in told.err
    assert set(open_network_composite(tmp_path / "c").model().parties) == {"ash", "birch"}


def test_the_basis_says_what_it_is_made_of_and_is_refused_where_it_does_not_fit(place: Path, tmp_path: Path) -> None:
    told = done("inspect", place / "basis", "--json").json
    assert told["epsilon"]["module"] is None
    assert "public" in told["privacy"][0]["note"]
    assert read(place / "basis").tensor("module.basis.weight").shape == (4, 36)
    words = ("contribute", "basis", "--data", place / "public.npz", "--units", "0..1", "--party", "p", "--out")
    refused(*words, tmp_path / "x", "--dimension", 37, names=("37 principal components", "36 directions"))
    refused(*words, place / "basis", "--dimension", 4, names="basis'")
    evidence = ("--method", "combine", "--weighting", "evidence", "--out", tmp_path / "x")
    refused("compose", *given(place, *EVERY[1:]), *evidence, names=("party 'public'", "by its features"))
    np.savez(tmp_path / "wide.npz", inputs=np.random.default_rng(0).uniform(size=(90, 1, 7, 7)))
    wide = ("contribute", "basis", "--data", tmp_path / "wide.npz", "--units", "0..1", "--dimension", 4, "--party")
    done(*wide, "public", "--out", tmp_path / "w")
    refused("compose", tmp_path / "w", *given(place, "ash", "birch"), *evidence, names=("'public'", "[1, 7, 7]"))
    refused("compose", place / "basis", "--method", "combine", "--out", tmp_path / "x", names="'module'")
