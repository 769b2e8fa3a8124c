"""``quiltwork contribute transfer``: from two published networks to one that knows what either did."""

from __future__ import annotations

from pathlib import Path

import cli_networks
import numpy as np
import pytest
import torch
from cli_networks import CLASSES, module_command, pixels
from cli_runner import done, files, finish, refused, start

from quiltwork.contribution.store import read
from quiltwork.models.network.opening import open_network
from quiltwork.party.confine import landlock_abi

BRIEF = ("--steps", 120, "--batch-size", 32, "--learning-rate", 0.01)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``north``, a network with random weights, and ``south``, a trained one; north's inputs."""
    folder = tmp_path_factory.mktemp("transfer")
    cli_networks.write_owner(folder / "files", 4, 1)
    done(*module_command(folder / "files", "south", folder / "south"))
    script = cli_networks.SCRIPT.replace("WIDTH", "5").replace("import nn", "import manual_seed, nn")
    (folder / "files" / "model.py").write_text(script.replace("def build():\n", "def build():\n    manual_seed(3)\n"))
    words = module_command(folder / "files", "north", folder / "north")
    done(*words[:4], *words[6:])
    return folder


def words(place: Path, *more: object) -> tuple[object, ...]:
    both = ("--student", place / "north", "--teacher", place / "south")
    return ("contribute", "transfer", *both, "--data", place / "files" / "data.npz", "--party", "north", *BRIEF, *more)


def right(path: Path) -> float:
    """The share of new inputs that a published network answers rightly."""
    inputs, labels = pixels(300, 55)
    with torch.no_grad():
        found = open_network(read(path))(torch.from_numpy(inputs[:, None]).float()).argmax(1).numpy()
    return float(np.mean(found == labels))


def test_the_student_learns_and_says_from_whom(place: Path, tmp_path: Path) -> None:
    told = done(*words(place, "--out", tmp_path / "taught", "--json")).json
    assert right(place / "north") < 0.6
    assert right(tmp_path / "taught") > 0.85
    assert told["kind"] == "module"
    assert set(told["method"]["rests_on"]) == {read(place / name).digest for name in ("north", "south")}
    assert "of party 'south'" in told["method"]["training"]["note"]
    assert [event["mechanism"] for event in told["privacy"] if event["released"] == "module"] == ["exact"]
    done(*words(place, "--out", tmp_path / "again"))
    assert files(tmp_path / "again") == files(tmp_path / "taught")
    assert {path.name for path in tmp_path.iterdir()} == {"taught", "again"}


def test_what_rests_on_one_who_is_not_there_is_set_aside(place: Path, tmp_path: Path) -> None:
    done(*words(place, "--out", tmp_path / "taught"))
    compose = ("compose", place / "north", tmp_path / "taught", "--method", "combine", "--out")
    assert "set aside: module of north" in done(*compose, tmp_path / "a").err
    assert "set aside" not in done(*compose, tmp_path / "b", place / "south").err


def test_inputs_without_labels_teach_too(place: Path, tmp_path: Path) -> None:
    with np.load(place / "files" / "data.npz") as archive:
        np.savez(tmp_path / "bare.npz", inputs=archive["inputs"])
    bare = ("contribute", "transfer", "--student", place / "north", "--teacher", place / "south", "--data",
            tmp_path / "bare.npz", "--party", "north", "--steps", 2, "--out", tmp_path / "t")  # fmt: skip
    told = done(*bare, "--no-labels", "--json").json
    assert "without labels" in told["method"]["training"]["note"]
    refused(*bare, "--overwrite", names="no labels")


def test_a_transfer_is_refused_by_name(place: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "x")
    refused(*words(place, *out, "--temperature", 0), names="temperature=0")
    refused(*words(place, *out, "--steps", 0), names="steps=0")
    data = place / "files" / "data.npz"
    done("contribute", "moments", "--data", data, "--units", "0..1", "--party", "a", "--out", tmp_path / "m")
    for student, teacher in (("m", "south"), ("south", "m")):
        both = [tmp_path / name if name == "m" else place / name for name in (student, teacher)]
        given = ("--student", both[0], "--teacher", both[1], "--data", data, "--party", "a")
        refused("contribute", "transfer", *given, *out, names="kind 'moments'")
    other = tmp_path / "other"
    changed = [word if word != CLASSES else "a,b,c" for word in module_command(place / "files", "south", other)]
    done(*changed[:4], *changed[6:])
    given = ("--student", place / "north", "--teacher", other, "--data", data, "--party", "north")
    refused("contribute", "transfer", *given, *out, names="teacher")
    assert not (tmp_path / "x").exists()


@pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock")
def test_a_sealed_owner_learns_the_same(place: Path, tmp_path: Path) -> None:
    more = ("--steps", 5, "--json", "--out")
    outcome = finish(start(*words(place, *more, tmp_path / "sealed" / "t", "--confine")))
    assert outcome.code == 0, outcome.err
    assert outcome.json["confinement"].startswith("landlock")
    assert outcome.json["digest"] == done(*words(place, *more, tmp_path / "plain" / "t")).json["digest"]
