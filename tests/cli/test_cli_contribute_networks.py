"""``quiltwork contribute module | moments | statistics | outputs``: from an owner's files to what others can read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cli_networks
import numpy as np
import pytest
import torch
from cli_networks import CLASSES, module_command, pixels
from cli_runner import done, files, finish, misused, refused, start

from quiltwork.contribution.store import read
from quiltwork.models.network.opening import open_network
from quiltwork.party.confine import landlock_abi

WIDTHS = {"north": 4, "south": 5}


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Files of two owners, each in a directory of its own."""
    place = tmp_path_factory.mktemp("owners")
    return {
        name: cli_networks.write_owner(place / name, width, seed)
        for seed, (name, width) in enumerate(WIDTHS.items(), start=1)
    }


@pytest.fixture(scope="module")
def published(owners: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Their networks as contributions."""
    place = tmp_path_factory.mktemp("published")
    for name, owner in owners.items():
        done(*module_command(owner, name, place / name))
    return {name: place / name for name in owners}


# Networks


def test_a_network_leaves_with_figures_and_moments_and_is_inspected(owners: Mapping[str, Path], tmp_path: Path) -> None:
    owner = owners["north"]
    more = ("--data", owner / "data.npz", "--held-out", owner / "kept.npz", "--inputs", 2, "--class-moments", "pooled")
    told = done(*module_command(owner, "north", tmp_path / "north", *more, "--rows", 300, "--json")).json
    assert told["kind"] == "module"
    assert told["method"]["training"]["accuracy"] > 0.9
    assert told["method"]["training"]["rows"] == 300
    assert told["releases"] == ["module", "inputs", "classes", "training"]
    assert {event["released"] for event in told["privacy"]} == set(told["releases"])
    network = open_network(read(tmp_path / "north"))
    inputs, labels = pixels(90, 101)
    with torch.no_grad():
        right = network(torch.from_numpy(inputs[:, None]).float()).argmax(1).numpy() == labels
    assert right.mean() == pytest.approx(told["method"]["training"]["accuracy"])
    shown = done("inspect", tmp_path / "north").out
    assert "privacy of module" in shown
    assert "no bound" in shown
    assert "convolution.default" in shown
    assert "bar, ring, dot" in shown
    assert done("inspect", tmp_path / "north", "--json").json["digest"] == told["digest"]


def test_the_same_files_give_the_same_bytes(owners: Mapping[str, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        done(*module_command(owners["north"], "north", tmp_path / name, "--data", owners["north"] / "data.npz"))
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_shape_and_classes_may_come_from_the_data(owners: Mapping[str, Path], tmp_path: Path) -> None:
    owner = owners["north"]
    words = ("contribute", "module", "--module", f"{owner}/model.py:build", "--units", "0..1", "--party", "north")
    told = done(*words, "--data", owner / "data.npz", "--out", tmp_path / "x", "--json").json
    assert told["task"] == {"shape": [1, 6, 6], "units": "0..1", "classes": ["bar", "dot", "ring"], "outputs": 3}
    told = done(*words, "--shape", "1,6,6", "--outputs", 3, "--out", tmp_path / "y", "--json").json
    assert told["task"]["classes"] is None


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (("--module", "model.onnx"), ("model.onnx", "FILE.pt2")),
        (("--module", "OWNER/model.py:training"), ("training mode", ".eval()")),
        (("--module", "OWNER/model.py:other"), ("model.py:other", "AttributeError")),
        (("--weights", "OWNER/data.npz"), ("data.npz",)),
        (("--shape", "1,5"), ("signature", "an input is")),
        (("--rows", "0"), ("rows",)),
        (("--note", "x" * 2001), ("note",)),
        (("--shape", "1,7,7", "--data", "OWNER/data.npz"), ("shape",)),
        (("--classes", "bar,ring"), ("outputs",)),
        (("--classes", "bar,bar,dot"), ("signature", "named once")),
        (("--mean", "0.5,0.5"), ("signature", "mean and std")),
        (("--std", "0"), ("signature",)),
        (("--units", "0..255", "--data", "OWNER/data.npz", "--class-moments", "triple"), ("triple",)),
        (("--point", "7x"), ("7x",)),
        (("--inputs", "1"), ("moments", "inputs")),
        (("--inputs", "many", "--data", "OWNER/data.npz"), ("--inputs 'many'",)),
        (("--inputs", "gaussian:epsilon=1,delta=1e-6", "--data", "OWNER/data.npz"), ("--guess",)),
        (("--embedding", "pca:3", "--inputs", "1", "--data", "OWNER/data.npz"), ("pca:3",)),
        (("--embedding", "random:many"), ("random:many",)),
        (("--held-out", "OWNER/none.npz"), ("none.npz",)),
        (("--party", "NORTH"), ("party",)),
    ],
)
def test_what_cannot_be_published_is_named_and_nothing_is_left(
    owners: Mapping[str, Path], tmp_path: Path, options: tuple[str, ...], names: tuple[str, ...]
) -> None:
    more = tuple(word.replace("OWNER", str(owners["north"])) for word in options)
    refused(*module_command(owners["north"], "north", tmp_path / "x", *more), names=names)
    assert not any(tmp_path.iterdir())


def test_what_a_module_needs_is_asked_for() -> None:
    misused("contribute", "module", "--units", "0..1", "--party", "a", "--out", "a", names="--module")


# Moments


def test_moments_alone_and_under_noise(owners: Mapping[str, Path], tmp_path: Path) -> None:
    words = ("contribute", "moments", "--data", owners["north"] / "data.npz", "--units", "0..1", "--party", "north")
    told = done(*words, "--classes", CLASSES, "--class-moments", "per_class", "--out", tmp_path / "a", "--json").json
    assert told["parts"].keys() == {"inputs", "classes"}
    assert told["statistics"][0]["embedding"] == {"kind": "random", "dimension": 40, "seed": 0}
    noise = "gaussian:epsilon=1,delta=1e-6"
    more = ("--inputs", noise, "--class-moments", "pooled", "--class-noise", noise, "--guess", "0,0.5")
    # the list of classes is no secret once it is declared, and one from the owner's rows has no price
    refused(*words, *more, "--out", tmp_path / "b", names="--classes")
    done(*words, *more, "--classes", CLASSES, "--embedding", "random:8,seed=2", "--out", tmp_path / "b")
    shown = done("inspect", tmp_path / "b", "--json").json
    assert shown["epsilon"]["inputs"] == pytest.approx(1.0, rel=0.01)
    assert shown["epsilon"]["everything"] == pytest.approx(1.5, abs=0.15)
    refused(*words, "--inputs", "none", "--out", tmp_path / "c", names="moments")


def test_inputs_without_labels_have_moments_too(tmp_path: Path) -> None:
    np.savez(tmp_path / "scans.npz", inputs=pixels(50, 0)[0])
    words = ("contribute", "moments", "--data", tmp_path / "scans.npz", "--units", "0..1", "--party", "north", "--out")
    told = done(*words, tmp_path / "a", "--classes", CLASSES, "--json").json
    assert told["task"]["classes"] == CLASSES.split(",")
    assert done(*words, tmp_path / "b", "--outputs", 2, "--json").json["task"]["outputs"] == 2
    refused(*words, tmp_path / "c", names="no labels")
    refused(*words, tmp_path / "c", "--classes", CLASSES, "--class-moments", "pooled", names="no labels")
    refused(*words, tmp_path / "c", "--classes", "bar,bar", names="named twice")


def test_a_published_network_embeds(owners: Mapping[str, Path], published: Mapping[str, Path], tmp_path: Path) -> None:
    words = ("contribute", "moments", "--data", owners["south"] / "data.npz", "--units", "0..1", "--party", "south",
             "--classes", CLASSES, "--embedding-network", published["north"], "--out", tmp_path / "x")  # fmt: skip
    network = open_network(read(published["north"]))
    point = next(iter(network.points))
    told = done(*words, "--embedding", f"module:{point}", "--json").json
    assert told["statistics"][0]["embedding"]["digest"] == network.digest
    refused(*words, "--embedding", "module:nowhere", "--overwrite", names="nowhere")


# Several published networks


def test_outputs_and_statistics_of_two_networks(
    owners: Mapping[str, Path], published: Mapping[str, Path], tmp_path: Path
) -> None:
    both = [word for path in published.values() for word in ("--network", path)]
    words = (*both, "--party", "north", "--data")
    told = done("contribute", "outputs", *words, owners["north"] / "kept.npz", "--out", tmp_path / "o", "--json").json
    assert [one["party"] for one in told["method"]["networks"]] == ["north", "south"]
    assert told["method"]["rows"] == 90
    sums = {name: read(tmp_path / "o").tensor(name).numpy() for name in read(tmp_path / "o").tensor_names()}
    assert sums["outputs.target"].tolist() == [90.0]
    assert np.allclose(sums["outputs.gram"], sums["outputs.gram"].T)
    pair = ("contribute", "statistics", *words, owners["north"] / "data.npz", "--out")
    told = done(*pair, tmp_path / "p", "--held-out", 0.4, "--json").json
    assert told["kind"] == "stitch_statistics"
    assert told["method"]["rows"] == 300
    names = {name: [one["name"] for one in told["method"][name]] for name in ("points_a", "points_b")}
    one = ("--point", f"north={names['points_a'][0]}", "--point", f"south={names['points_b'][-1]}")
    told = done(*pair, tmp_path / "q", *one, "--held-out", 0, "--json").json
    assert [len(told["method"][name]) for name in ("points_a", "points_b")] == [1, 1]
    noisy = (*pair, tmp_path / "r", *one, "--noise", "gaussian:epsilon=4,delta=1e-6,clip=5", "--json")
    assert done(*noisy).json["privacy"][0]["mechanism"] == "gaussian"
    assert done("inspect", tmp_path / "r", "--json").json["epsilon"]["pair"] == pytest.approx(4.0, rel=0.01)


def test_inputs_of_a_network_may_be_the_columns_of_a_table(
    owners: Mapping[str, Path], published: Mapping[str, Path], tmp_path: Path
) -> None:
    inputs, labels = pixels(90, 101)
    names = CLASSES.split(",")
    rows = [",".join([*map(str, row.ravel()), names[label]]) for row, label in zip(inputs, labels, strict=True)]
    (tmp_path / "kept.csv").write_text("\n".join([",".join([*(f"p{i}" for i in range(36)), "kind"]), *rows]))
    words = ("contribute", "outputs", "--network", published["north"], "--party", "north")
    found = []
    for data, more in ((tmp_path / "kept.csv", ("--target", "kind")), (owners["north"] / "kept.npz", ())):
        done(*words, "--data", data, *more, "--out", tmp_path / data.suffix[1:])
        found.append(read(tmp_path / data.suffix[1:]))
    for name in found[0].tensor_names():
        assert np.allclose(*(one.tensor(name).numpy() for one in found))
    refused(*words, "--data", tmp_path / "kept.csv", "--out", tmp_path / "x", names=("kept.csv", "kind"))


def test_pairs_and_outputs_are_refused_by_name(
    owners: Mapping[str, Path], published: Mapping[str, Path], tmp_path: Path
) -> None:
    kept, out = owners["north"] / "kept.npz", tmp_path / "x"
    both = [word for path in published.values() for word in ("--network", path)]
    rest = ("--data", kept, "--party", "north", "--out", out)
    refused("contribute", "statistics", *both[:2], *rest, names="1 networks")
    refused("contribute", "statistics", *both, *rest, "--point", "west=0", names="west")
    refused("contribute", "statistics", *both, *rest, "--noise", "laplace:epsilon=1", names="laplace")
    refused("contribute", "statistics", *both, *rest, names=("kept.npz", "images"))
    refused("contribute", "outputs", *both, *rest, "--minimum-rows", 91, names="fewer than 91")
    refused("contribute", "outputs", *both[:2] * 2, *rest, names="named twice")
    refused("contribute", "outputs", "--network", tmp_path / "none", *rest, names="none")
    done("contribute", "moments", "--data", kept, "--units", "0..1", "--party", "a", "--out", tmp_path / "m")
    refused("contribute", "outputs", "--network", tmp_path / "m", *rest, names="kind 'moments'")
    assert not out.exists()


# Confinement


@pytest.mark.skipif(not landlock_abi(), reason="this kernel has no Landlock")
def test_a_sealed_owner_opens_only_what_was_named(owners: Mapping[str, Path], tmp_path: Path) -> None:
    owner = tmp_path / "owner"
    cli_networks.write_owner(owner, 4, 7)
    secret = tmp_path / "other" / "secret.txt"
    secret.parent.mkdir()
    secret.write_text("of another party")
    honest = module_command(owner, "north", tmp_path / "release" / "north", "--data", owner / "data.npz", "--confine")
    outcome = finish(start(*honest, "--json"))
    assert outcome.code == 0, outcome.err
    assert outcome.json["confinement"].startswith("landlock")
    plain = done(*module_command(owner, "north", tmp_path / "plain" / "north", "--json")).json
    assert outcome.json["digest"] == plain["digest"]
    spy = (owner / "model.py").read_text() + f"\nopen({str(secret)!r}).read()\n"
    (owner / "model.py").write_text(spy)
    outcome = finish(start(*honest, "--overwrite"))
    assert outcome.code == 1
    assert "its own code fails (PermissionError)" in outcome.err
    done(*honest[:-1], "--overwrite")


# From contributions to a model


def test_what_owners_hand_over_composes_and_predicts(
    owners: Mapping[str, Path], published: Mapping[str, Path], tmp_path: Path
) -> None:
    both = [word for path in published.values() for word in ("--network", path)]
    given: list[Path] = [*published.values()]
    for name, owner in owners.items():
        words = ("--party", name, "--data")
        outputs, moments = tmp_path / f"{name}-outputs", tmp_path / f"{name}-moments"
        done("contribute", "outputs", *both, *words, owner / "kept.npz", "--out", outputs)
        more = ("--units", "0..1", "--classes", CLASSES, "--class-moments", "pooled", "--out", moments)
        done("contribute", "moments", *words, owner / "data.npz", *more)
        given += [outputs, moments]
    inputs, labels = pixels(200, 77)
    np.savez(tmp_path / "new.npz", inputs=inputs)
    for method, options in (
        ("combine", ("--weighting", "stacked")),
        ("combine", ("--weighting", "evidence")),
        ("gaussian_head", ()),
    ):
        model = tmp_path / "-".join([method, *options[1:]])
        done("compose", *given, "--method", method, *options, "--out", model)
        out = tmp_path / f"{model.name}.csv"
        done("predict", model, "--data", tmp_path / "new.npz", "--out", out)
        found = [line.split(",")[0] for line in out.read_text().splitlines()]
        due = [CLASSES.split(",")[label] for label in labels]
        assert np.mean(np.array(found[1:]) == np.array(due)) > 0.8, (method, options)


# Stitches


def test_stitches_are_trained_by_one_owner_and_then_by_another(
    owners: Mapping[str, Path], published: Mapping[str, Path], tmp_path: Path
) -> None:
    both = [word for path in published.values() for word in ("--network", path)]
    points = [next(iter(open_network(read(path)).points)) for path in published.values()]
    brief = ("--steps", 3, "--batch-size", 16)
    words = ("contribute", "stitches", *both, *brief, "--data")
    first = (*words, owners["north"] / "data.npz", "--party", "north", "--points", ",".join(points))
    told = done(*first, "--losses", "--out", tmp_path / "a", "--json").json
    assert told["kind"] == "stitches"
    assert [one["party"] for one in told["method"]["networks"]] == ["north", "south"]
    assert len(told["method"]["splices"]) == 2
    assert told["method"]["training"]["loss_last"] is not None
    assert "training" in told["releases"]
    assert len(done(*first, "--one-way", "--out", tmp_path / "b", "--json").json["method"]["splices"]) == 1
    second = (*words, owners["south"] / "data.npz", "--party", "south", "--start", tmp_path / "a")
    again = done(*second, "--loss", "penultimate", "--out", tmp_path / "c", "--json").json
    assert again["method"]["rests_on"] == [told["digest"]]
    assert again["method"]["training"]["loss_last"] is None
    assert "average 1:" in done("inspect", tmp_path / "c").out
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}


def test_stitches_are_refused_by_name(
    owners: Mapping[str, Path], published: Mapping[str, Path], tmp_path: Path
) -> None:
    both = [word for path in published.values() for word in ("--network", path)]
    rest = ("--data", owners["north"] / "kept.npz", "--party", "north", "--out", tmp_path / "x")
    words = ("contribute", "stitches", *both, *rest)
    refused(*words, names="the points")
    refused(*words, "--points", "0", names="--points '0'")
    refused(*words, "--points", "0,9x", names="9x")
    refused(*words, "--pair", "north,west", "--points", "0,0", names="--pair 'north,west'")
    refused(*words, "--points", "0,0", "--mode", "sum", names="mode")
    refused(*words, "--points", "0,0", "--loss", "hinge", names="hinge")
    refused(*words, "--points", "0,0", "--steps", 0, names="steps")
    assert not any(tmp_path.iterdir())
