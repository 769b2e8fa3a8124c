"""A composed network as an object and as a directory: what it predicts and keeps, which directories are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import network_parties as parties
from quiltwork.compose.combine import Combine
from quiltwork.compose.method import compose
from quiltwork.compose.network_alone import NetworkAlone
from quiltwork.compose.networks import Member, NetworkMethod, NetworkSolution, TaskReference
from quiltwork.compose.reopen import open_any, open_network_composite, open_table_composite
from quiltwork.composite import NetworkComposite, Provenance, open_composite, saved_kind
from quiltwork.composite.network_files import SavedNetworks
from quiltwork.contribution.canonical import encode
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import (
    AlteredContribution,
    CheckpointError,
    ExportError,
    InvalidOption,
    MalformedContribution,
    StorageError,
)
from quiltwork.models.network.capture import capture

Given = Sequence[Contribution]
X = parties.inputs()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Given:
    place = tmp_path_factory.mktemp("given")
    return tuple(parties.release(place, party, one=parties.network(party)) for party in ("ash", "birch"))


@pytest.fixture
def composite(given: Given) -> NetworkComposite:
    return compose(given, Combine())


# Predictions.


def test_probabilities_classes_and_logits_belong_together(composite: NetworkComposite) -> None:
    probabilities = composite.predict_proba(X)
    assert np.allclose(probabilities.sum(axis=1), 1)
    assert np.allclose(np.exp(composite.outputs(X)), probabilities, atol=1e-6), "a mixture gives log-probabilities"
    assert composite.predict(X).tolist() == [parties.CLASSES[k] for k in probabilities.argmax(axis=1)]


def test_batches_change_nothing_but_rounding(composite: NetworkComposite) -> None:
    assert np.allclose(composite.outputs(X, batch=7), composite.outputs(X), atol=1e-5)
    assert np.allclose(composite.outputs(X.tolist()), composite.outputs(X))


@pytest.mark.parametrize(
    ("inputs", "what"),
    [
        (X[:, 0], r"inputs of shape \[60, 6, 6\]"),
        (X[:0], r"inputs of shape \[0, 1, 6, 6\]"),
        (np.full((1, *parties.SHAPE), np.nan), "not finite"),
        (np.full((1, *parties.SHAPE), 1e300), "not finite"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(inputs: Any, what: str, composite: NetworkComposite) -> None:
    with pytest.raises(InvalidOption, match=what):
        composite.outputs(inputs)


class Silent(torch.nn.Module):
    """Gives what is not a number for dark images, and numbers for others."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(36, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.flatten(1)
        return self.head(flat) + torch.log(flat.mean(dim=1, keepdim=True))


def test_a_network_that_gives_no_number_is_named_and_spoils_nothing_quietly(given: Given, tmp_path: Path) -> None:
    said = parties.signature(mean=(0.1,), std=(1.0,))
    silent = capture(Silent().eval(), torch.rand(3, *parties.SHAPE) + 0.5, signature=said)
    whole = compose([*given, parties.release(tmp_path, "cedar", one=silent)], Combine())
    bright, dark = np.full((4, *parties.SHAPE), 0.9), np.full((4, *parties.SHAPE), 0.9)
    dark[2] = 0.0
    assert np.isfinite(whole.outputs(bright)).all()
    for call in (whole.outputs, whole.predict, whole.predict_proba):
        with pytest.raises(MalformedContribution, match=r"of party 'cedar'.*not a number"):
            call(dark)
    assert np.isfinite(whole.without("cedar").outputs(dark)).all()


def test_a_setting_is_for_stitched_networks_alone(composite: NetworkComposite, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="setting 'ash': a model composed by combine has none"):
        composite.export(tmp_path / "m.pt2", "pt2", setting="ash")


# The directory.


def test_a_directory_says_what_it_is_and_keeps_contributions_as_they_were(
    composite: NetworkComposite, given: Given, tmp_path: Path
) -> None:
    place = composite.save(tmp_path / "saved")
    assert saved_kind(place) == "network"
    assert isinstance(open_any(place), NetworkComposite)
    for contribution in given:
        (kept,) = (place / "contributions").glob(f"{contribution.party}.module.*")
        for file in contribution.path.iterdir():
            assert (kept / file.name).read_bytes() == file.read_bytes()
    card = (place / "README.md").read_text()
    assert all(words in card for words in ("`no`, `maybe`, `yes`", "| ash | module |", "LicenseRef-birch", "0..1"))
    assert composite.to_json() == json.loads((place / "quiltwork.json").read_text())


def test_other_doors_refuse_it_and_it_is_not_overwritten(composite: NetworkComposite, tmp_path: Path) -> None:
    place = composite.save(tmp_path / "saved")
    with pytest.raises(InvalidOption, match="a composed network, and this opens language models"):
        open_composite(place)
    with pytest.raises(CheckpointError):
        open_table_composite(place)
    with pytest.raises(StorageError):
        composite.save(place)
    assert composite.save(place, overwrite=True) == place


def test_a_composite_may_be_saved_over_the_one_it_was_opened_from(composite: NetworkComposite, tmp_path: Path) -> None:
    place = composite.save(tmp_path / "saved")
    open_network_composite(place).without("birch").save(place, overwrite=True)
    assert open_network_composite(place).parties == ("ash",)


def test_a_contribution_that_changed_meanwhile_is_not_saved(tmp_path: Path) -> None:
    one = parties.release(tmp_path, "ash", one=parties.network("ash"))
    composite = compose([one], Combine())
    path = one.path / "module.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(AlteredContribution, match=r"file 'module\.safetensors' of party 'ash'"):
        composite.save(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


Edit = Callable[[dict[str, Any]], None]


def drop(value: dict[str, Any]) -> None:
    value["contributions"] = value["contributions"][1:]


def swap(value: dict[str, Any]) -> None:
    value["contributions"] = value["contributions"][::-1]


def twice(value: dict[str, Any]) -> None:
    value["contributions"] = [value["contributions"][0], *value["contributions"]]


def outside(value: dict[str, Any]) -> None:
    value["contributions"][0]["party"] = "../ash"


def other_digest(value: dict[str, Any]) -> None:
    value["contributions"][0]["digest"] = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda value: value.update(method="magic"), "method 'magic'"),
        (lambda value: value.update(method="reduction"), "method 'reduction'"),
        (lambda value: value["options"].update(rule="loudest"), "option"),
        (lambda value: value["options"].update(more=1), "option 'more'"),
        (lambda value: value["options"].pop("weights"), "lacks option 'weights'"),
        (lambda value: value["options"].update(weights="evidence"), "needs the part 'inputs'"),
        (lambda value: value["options"].update(weights={"yew": 1.0}), "yew"),
        (lambda value: value["task"].update(units="0..255"), "of another task than it says"),
        (lambda value: value.update(version=2), "version"),
        (lambda value: value.update(base="sha256:00"), "base"),
        (lambda value: value.update(extra=1), "extra"),
        (drop, "does not name it"),
        (swap, "not sorted"),
        (twice, "not sorted"),
        (outside, "party"),
        (other_digest, "contribution"),
    ],
)
def test_an_edited_directory_is_refused_even_if_sealed_again(
    edit: Edit, why: str, composite: NetworkComposite, tmp_path: Path
) -> None:
    place = composite.save(tmp_path / "saved")
    value = json.loads((place / "quiltwork.json").read_text())
    edit(value)
    (place / "quiltwork.json").write_bytes(encode(value))
    with pytest.raises(CheckpointError):
        open_any(place)
    (place / "quiltwork.json").write_bytes(resealed(value))
    with pytest.raises(CheckpointError, match=why):
        open_any(place)


def resealed(value: dict[str, Any]) -> bytes:
    """The record with the digest that an honest writer would have given it."""
    import hashlib

    del value["digest"]
    return encode(value | {"digest": "sha256:" + hashlib.sha256(encode(value)).hexdigest()})


def test_sealing_again_is_what_the_writer_does(composite: NetworkComposite) -> None:
    value = composite.to_json()
    assert resealed(dict(value)) == encode(value)
    assert SavedNetworks.model_validate_json(encode(value)).sealed().digest == value["digest"]


def test_files_too_many_or_too_few_are_refused(composite: NetworkComposite, tmp_path: Path) -> None:
    place = composite.save(tmp_path / "saved")
    (place / "contributions" / "more").mkdir()
    with pytest.raises(CheckpointError, match=r"contribution 'more'.*does not name it"):
        open_any(place)
    (place / "contributions" / "more").rmdir()
    (kept,) = (place / "contributions").glob("birch.*")
    kept.rename(tmp_path / "away")
    with pytest.raises(CheckpointError, match=r"birch\.module.*names it, and it is not there"):
        open_any(place)
    kept.symlink_to(tmp_path / "away")
    with pytest.raises(CheckpointError, match="symbolic link"):
        open_any(place)
    (place / "quiltwork.json").write_text(json.dumps(composite.to_json()))
    with pytest.raises(CheckpointError, match="canonical"):
        open_any(place)


def test_only_networks_may_name_a_party_twice(composite: NetworkComposite) -> None:
    value = composite.to_json()
    entry = {"party": "ash", "digest": f"sha256:{'1' * 64}", "licence": "x"}
    value["contributions"] = [entry, entry | {"digest": f"sha256:{'2' * 64}"}]
    assert len(Provenance.from_json(value, Path("q")).contributions) == 2
    for broken in (value | {"layout": "portable"}, value | {"contributions": [entry, entry]}):
        with pytest.raises(CheckpointError, match="one is there twice"):
            Provenance.from_json(broken, Path("q"))


# Methods of one's own.


@dataclass(frozen=True)
class First:
    """The first party's network; holds something that JSON does not."""

    key: object = None
    name: str = "first"

    def needs(self) -> frozenset[str]:
        return frozenset({"module"})

    def uses(self) -> frozenset[str]:
        return frozenset()

    def build(self, task: TaskReference, members: Sequence[Member]) -> NetworkSolution:
        assert task.shape == parties.SHAPE
        return NetworkSolution(members[0].network)


def test_a_method_of_one_s_own_composes_and_what_json_cannot_hold_is_not_saved(given: Given, tmp_path: Path) -> None:
    assert isinstance(First(), NetworkMethod)
    composite = compose(given, First(key=object()))
    assert np.array_equal(composite.outputs(X), compose(given, NetworkAlone("ash")).outputs(X))
    with pytest.raises(ExportError, match="method 'first': its options cannot be written as JSON"):
        composite.save(tmp_path / "saved")
    compose(given, First()).save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="method 'first'"):
        open_any(tmp_path / "saved")
