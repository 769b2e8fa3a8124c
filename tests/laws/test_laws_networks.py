"""The laws of composing, for every method over networks.

Laws 1 (opt-out), 2 (order), 3 (identity), 4 (round trip), 5 (nothing undeclared crosses: a composite holds what the
contributions hold and no more) and 6 (the exported file agrees). Each check is tried on a method that breaks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from law_checks import assert_same_files
from network_law_checks import (
    METHODS,
    OF_ONE_GRAPH,
    check_export,
    check_identity,
    check_opt_out,
    check_order,
    check_round_trip,
)
from torch import Tensor, nn

import network_parties as parties
from quiltwork.compose.combine import Combine
from quiltwork.compose.joining import joined_network
from quiltwork.compose.method import compose
from quiltwork.compose.networks import Member, NetworkMethod, NetworkSolution, TaskReference, about
from quiltwork.compose.reopen import open_any
from quiltwork.composite import NetworkComposite
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import CheckpointError, InvalidOption

Given = Sequence[Contribution]
EVERY = [*METHODS, *OF_ONE_GRAPH]
NAMED_BY = {
    "combine-weighted": ("birch", "cedar"),
    "soup-weighted": ("birch", "cedar"),
    "stitch-pair": ("cedar",),
    "stitch-one-way": ("birch",),
}
"""Who may leave a method that names parties."""
EXPORTED = ("combine-median", "stitch-evidence", "head-qda")
"""What is exported in the fast tests."""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Three parties, two architectures, with statistics, and what two of them say of everybody's outputs."""
    place = tmp_path_factory.mktemp("mixed")
    networks = {party: parties.network(party) for party in parties.PARTIES}
    modules = {p: parties.release(place, p, one=one, parts=("inputs", "classes")) for p, one in networks.items()}
    pairs = [
        parties.release_pair(place, owner, modules[a], modules[b])
        for a, b in combinations(modules, 2)
        for owner in parties.PARTIES
    ]
    outputs = [parties.release_outputs(place, party, networks) for party in ("ash", "cedar")]
    return (*modules.values(), *outputs, *pairs)


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Three parties with other weights of one architecture."""
    place = tmp_path_factory.mktemp("alike")
    return tuple(
        parties.release(place, party, one=parties.network("ash", seed)) for seed, party in enumerate(parties.PARTIES)
    )


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """One network under three names, each with statistics of its party's own images."""
    place, one = tmp_path_factory.mktemp("copies"), parties.network("ash")
    networks = dict.fromkeys(parties.PARTIES, one)
    modules = [parties.release(place, party, one=one, parts=("inputs", "classes")) for party in parties.PARTIES]
    pairs = [parties.release_pair(place, "cedar", a, b) for a, b in combinations(modules, 2)]
    return (*modules, parties.release_outputs(place, "birch", networks), *pairs)


def of(contribution: Contribution, party: str) -> bool:
    """Whether a contribution is about a party's network."""
    return party in {reference.party for reference in about(contribution)}


def given_to(name: str, mixed: Given, alike: Given) -> tuple[Given, NetworkMethod]:
    return (alike, OF_ONE_GRAPH[name]) if name in OF_ONE_GRAPH else (mixed, METHODS[name])


# Every method.


@pytest.mark.parametrize("name", EVERY)
def test_opt_out_is_exact(name: str, mixed: Given, alike: Given, tmp_path: Path) -> None:
    contributions, method = given_to(name, mixed, alike)
    for party in NAMED_BY.get(name, ("ash", "cedar")):
        check_opt_out(contributions, method, party, tmp_path / party)


@pytest.mark.parametrize(
    ("name", "party"),
    [
        ("alone", "birch"),
        ("stitch-pair", "birch"),
        ("stitch-one-way", "cedar"),
    ],
)
def test_a_party_that_the_method_names_cannot_leave(name: str, party: str, mixed: Given, alike: Given) -> None:
    contributions, method = given_to(name, mixed, alike)
    with pytest.raises(InvalidOption, match=party):
        compose(contributions, method).without(party)
    with pytest.raises(InvalidOption, match=party):
        compose([c for c in contributions if c.party != party], method)


@pytest.mark.parametrize("name", ["combine-weighted", "soup-weighted"])
def test_the_weight_of_a_party_leaves_with_it(name: str, mixed: Given, alike: Given, tmp_path: Path) -> None:
    contributions, method = given_to(name, mixed, alike)
    stated: Any = method
    rest = [c for c in contributions if c.party != "ash"]
    with pytest.raises(InvalidOption, match="ash"):
        compose(rest, method)
    kept = {party: weight for party, weight in stated.weights.items() if party != "ash"}
    compose(contributions, method).without("ash").save(tmp_path / "left")
    compose(rest, replace(stated, weights=kept or type(stated)().weights)).save(tmp_path / "never")
    assert_same_files(tmp_path / "left", tmp_path / "never")


@pytest.mark.parametrize("name", EVERY)
def test_order_does_not_matter(name: str, mixed: Given, alike: Given, tmp_path: Path) -> None:
    check_order(*given_to(name, mixed, alike), tmp_path)


@pytest.mark.parametrize("name", [n for n in EVERY if not n.startswith(("head", "combine-rank", "stitch-pair"))])
def test_copies_of_one_network_give_its_function(name: str, copies: Given) -> None:
    check_identity(copies, (METHODS | OF_ONE_GRAPH)[name], tolerance=1e-6)


def test_ranks_of_copies_keep_the_order_of_classes(copies: Given) -> None:
    x = parties.inputs()
    ranked, alone = (compose(copies, METHODS[name]).predict_proba(x) for name in ("combine-rank", "alone"))
    assert np.array_equal(ranked.argsort(axis=1), alone.argsort(axis=1))


@pytest.mark.parametrize("name", EVERY)
def test_saved_and_in_memory_predictions_agree(name: str, mixed: Given, alike: Given, tmp_path: Path) -> None:
    check_round_trip(compose(*given_to(name, mixed, alike)), tmp_path)


@pytest.mark.parametrize("name", [name for name in EVERY if name not in ("alone", "stitch-pair")])
def test_joining_is_having_been_there(name: str, mixed: Given, alike: Given, tmp_path: Path) -> None:
    contributions, method = given_to(name, mixed, alike)
    # sums about a network that is not there yet are not kept, and are handed over again with it
    late = [c for c in contributions if c.party == "birch" or (c.kind == "stitch_statistics" and of(c, "birch"))]
    whole = joined_network(compose([c for c in contributions if c not in late], method), late)
    whole.save(tmp_path / "joined")
    compose(contributions, method).save(tmp_path / "at-once")
    assert_same_files(tmp_path / "joined", tmp_path / "at-once")


@pytest.mark.parametrize(
    "name", [name if name in EXPORTED else pytest.param(name, marks=pytest.mark.slow) for name in EVERY]
)
def test_the_exported_program_agrees(name: str, mixed: Given, alike: Given, tmp_path: Path) -> None:
    check_export(compose(*given_to(name, mixed, alike)), tmp_path, "pt2")


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_the_exported_onnx_agrees(name: str, mixed: Given, alike: Given, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    check_export(compose(*given_to(name, mixed, alike)), tmp_path, "onnx")


def test_a_changed_byte_anywhere_is_refused(mixed: Given, tmp_path: Path) -> None:
    few = [c for c in mixed if c.kind in ("module", "outputs")]
    place = compose(few, Combine()).save(tmp_path / "saved")
    rng = np.random.default_rng(5)
    for file in sorted(path for path in place.rglob("*") if path.is_file()):
        whole = file.read_bytes()
        for at in {0, len(whole) - 1, *map(int, rng.integers(0, len(whole), size=3))}:
            file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            if file.name == "README.md":
                open_any(place)
            else:
                with pytest.raises(CheckpointError):
                    open_any(place)
        file.write_bytes(whole)
    assert open_any(place).parties == parties.PARTIES


def test_nothing_undeclared_is_in_a_composite(mixed: Given, tmp_path: Path) -> None:
    place = compose(mixed, Combine(weights="evidence")).save(tmp_path / "saved")
    assert sorted(path.name for path in place.iterdir()) == ["README.md", "contributions", "quiltwork.json"]
    given = [file.read_bytes() for c in mixed for file in c.path.iterdir()]
    found = [file.read_bytes() for file in (place / "contributions").rglob("*") if file.is_file()]
    assert sorted(found) == sorted(given)


# Negative controls: composers and methods that break a law, and are seen to.


class Keeps(NetworkComposite):
    """A composite that takes a party out of its list and not out of its model."""

    def without(self, party: str) -> NetworkComposite:
        rest = super().without(party)
        rest.__dict__["solution"] = self.solution
        return rest


def keeping(contributions: Sequence[Contribution], method: NetworkMethod) -> NetworkComposite:
    found = compose(contributions, method)
    return Keeps(found.method, found.task, found.contributions)


class Shifted(nn.Module):
    """Another module, moved a little."""

    def __init__(self, model: nn.Module, by: float) -> None:
        super().__init__()
        self.model, self.by = model, by

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + self.by * torch.arange(3)


@dataclass(frozen=True)
class Perturbs(Combine):
    """Adds a little to the logits of some classes."""

    def build(self, task: TaskReference, members: Sequence[Member]) -> NetworkSolution:
        return NetworkSolution(Shifted(super().build(task, members).model, 1e-3))


def led_by_the_first(contributions: Sequence[Contribution], method: NetworkMethod) -> NetworkComposite:
    """Moves the last digits according to who is given first."""
    composite = compose(contributions, method)
    by = 1e-4 * parties.PARTIES.index(contributions[0].party)
    composite.__dict__["solution"] = NetworkSolution(Shifted(composite.solution.model, by))
    return composite


def test_a_composite_that_keeps_the_removed_party_is_noticed(mixed: Given, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="the outputs differ"):
        check_opt_out(mixed, Combine(), "ash", tmp_path, keeping)


def test_a_composer_that_depends_on_order_is_noticed(mixed: Given, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"differ"):
        check_order(mixed, Combine(), tmp_path, led_by_the_first)


def test_a_method_that_perturbs_breaks_identity(copies: Given) -> None:
    with pytest.raises(AssertionError, match="the functions differ"):
        check_identity(copies, Perturbs(), tolerance=1e-6)


def test_a_composite_that_predicts_otherwise_than_it_saves_is_noticed(mixed: Given, tmp_path: Path) -> None:
    composite = compose(mixed, Combine())
    composite.__dict__["solution"] = NetworkSolution(Shifted(composite.solution.model, 1e-3))
    with pytest.raises(AssertionError):
        check_round_trip(composite, tmp_path)


def test_an_export_of_another_model_is_noticed(mixed: Given, tmp_path: Path) -> None:
    composite = compose(mixed, Combine())

    class Exports(NetworkComposite):
        def export(self, target: str | Path, form: Any, *, setting: str | None = None) -> Path:
            return compose(mixed, Combine("median")).export(target, form, setting=setting)

    with pytest.raises(AssertionError, match="the outputs differ"):
        check_export(Exports(composite.method, composite.task, composite.contributions), tmp_path, "pt2")
