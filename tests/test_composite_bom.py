"""What a composed model says it is made of, for programs of others: bills of materials, and the base in the card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import network_parties
import table_machines
from quiltwork.compose.combine import Combine
from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import compose
from quiltwork.composite import PROVENANCE, Composite, open_composite
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import CheckpointError, InvalidOption
from quiltwork.models.base import Base

NAME = "allenai/OLMo-2-0425-1B"


@pytest.fixture
def language(tiny_base: Callable[[str], Base], contributions: Callable[[str], list[Contribution]]) -> Composite:
    return compose(contributions("olmo2"), Ensemble(weighting="uniform"), tiny_base("olmo2"))


@pytest.fixture
def networks(tmp_path: Path) -> list[Contribution]:
    return [network_parties.release(tmp_path, p, one=network_parties.network(p)) for p in network_parties.PARTIES]


def bill(path: Path) -> dict[str, Any]:
    pytest.importorskip("cyclonedx")
    from quiltwork.composite.bom import bill_of_materials

    found: dict[str, Any] = json.loads(bill_of_materials(path))
    return found


def sha256s(component: dict[str, Any]) -> list[str]:
    return [one["content"] for one in component["hashes"] if one["alg"] == "SHA-256"]


def properties(component: dict[str, Any]) -> dict[str, str]:
    return {one["name"].removeprefix("quiltwork:"): one["value"] for one in component["properties"]}


@pytest.fixture(params=["language", "table", "network"])
def saved(request: pytest.FixtureRequest, tmp_path: Path, networks: list[Contribution]) -> Path:
    composite: Any
    if request.param == "language":
        composite = request.getfixturevalue("language")
    elif request.param == "table":
        composite = table_machines.composite()
    else:
        composite = compose(networks, Combine(weights={"ash": 2.0, "birch": 1.0, "cedar": 1.0}))
    composite.save(tmp_path / "composed")
    return tmp_path / "composed"


def test_the_bill_lists_every_file_by_its_hash(saved: Path) -> None:
    files = {str(p.relative_to(saved)): p for p in saved.rglob("*") if p.is_file()}
    listed = {one["name"]: sha256s(one) for one in bill(saved)["metadata"]["component"]["components"]}
    assert listed == {name: [hashlib.sha256(path.read_bytes()).hexdigest()] for name, path in files.items()}


def test_the_bill_names_what_went_in(saved: Path) -> None:
    told, found = json.loads((saved / PROVENANCE).read_text()), bill(saved)
    whole = found["metadata"]["component"]
    assert (found["bomFormat"], found["specVersion"]) == ("CycloneDX", "1.6")
    assert whole["type"] == "machine-learning-model"
    assert properties(whole)["method"] == told["method"]
    entries = {one["digest"]: one for one in told["contributions"]}
    parts = {f"sha256:{sha256s(one)[0]}": one for one in found["components"]}
    assert parts.keys() == entries.keys() | ({told["base"]} - {None})
    for digest, entry in entries.items():
        stated = properties(parts[digest])
        assert {name: entry[name] for name in ("party", "kind", "digest") if name in entry} == stated
        (licence,) = parts[digest]["licenses"]
        assert entry["licence"] in (licence["license"].get("name"), licence["license"].get("id"))
    ancestors = [sha256s(one) for one in whole["pedigree"]["ancestors"]]
    assert sorted(ancestors) == sorted(sha256s(one) for one in found["components"])
    (due,) = [one["dependsOn"] for one in found["dependencies"] if one["ref"] == whole["bom-ref"]]
    assert sorted(due) == sorted(one["bom-ref"] for one in found["components"])


def test_references_are_unique_and_the_library_reads_the_bill_again(saved: Path) -> None:
    found = bill(saved)
    whole = found["metadata"]["component"]
    every = [whole, *whole["components"], *whole["pedigree"]["ancestors"], *found["components"]]
    names = [one["bom-ref"] for one in every]
    assert len(names) == len(set(names))
    from cyclonedx.model.bom import Bom

    assert len(Bom.from_json(found).components) == len(found["components"])  # type: ignore[attr-defined]


def test_the_same_directory_gives_the_same_bill_and_a_changed_one_another(saved: Path) -> None:
    first = bill(saved)
    assert first == bill(saved)
    (saved / "README.md").write_text("changed")
    assert bill(saved)["serialNumber"] != first["serialNumber"]


def test_weights_that_a_method_states_are_in_the_bill(networks: list[Contribution], tmp_path: Path) -> None:
    weights = {"ash": 2.0, "birch": 1.0, "cedar": 0.5}
    compose(networks, Combine(weights=weights)).save(tmp_path / "weighted")
    stated = properties(bill(tmp_path / "weighted")["metadata"]["component"])
    assert json.loads(stated["option.weights"]) == weights


@pytest.mark.parametrize(
    ("licence", "due"),
    [
        ("Apache-2.0", {"license": {"id": "Apache-2.0"}}),
        ("MIT OR Apache-2.0", {"expression": "MIT OR Apache-2.0"}),
        ("by agreement", {"license": {"name": "by agreement"}}),
    ],
)
def test_licences_are_given_as_what_they_are(licence: str, due: dict[str, Any], saved: Path) -> None:
    value = json.loads((saved / PROVENANCE).read_text())
    value["contributions"][0]["licence"] = licence
    (saved / PROVENANCE).write_text(json.dumps(value))
    (one,) = [c for c in bill(saved)["components"] if f"sha256:{sha256s(c)[0]}" == value["contributions"][0]["digest"]]
    assert {**one["licenses"][0], "acknowledgement": None} == {**due, "acknowledgement": None}


# The base in the card ---------------------------------------------------------------


def front_matter(place: Path) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    text = (place / "README.md").read_text()
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def test_the_card_lists_the_base_where_it_has_a_name(language: Composite, tmp_path: Path) -> None:
    language.save(tmp_path / "plain")
    assert "base_model" not in front_matter(tmp_path / "plain")
    assert "base_name" not in json.loads((tmp_path / "plain" / PROVENANCE).read_text())
    language.with_base_name(NAME).save(tmp_path / "named")
    found = front_matter(tmp_path / "named")
    assert (found["base_model"], found["base_model_relation"]) == ([NAME], "merge")
    hub = pytest.importorskip("huggingface_hub")
    assert hub.ModelCard.load(tmp_path / "named" / "README.md").data.base_model == [NAME]


def test_the_name_stays_when_a_party_leaves(language: Composite, tmp_path: Path) -> None:
    named = language.with_base_name(NAME)
    named.save(tmp_path / "named")
    reopened = open_composite(tmp_path / "named")
    reopened.without("birch").save(tmp_path / "without")
    named.without("birch").save(tmp_path / "due")
    for name in ("README.md", PROVENANCE):
        assert (tmp_path / "without" / name).read_bytes() == (tmp_path / "due" / name).read_bytes()
    assert front_matter(tmp_path / "without")["base_model"] == [NAME]


def test_a_name_that_yaml_would_misread_stays_a_name(language: Composite, tmp_path: Path) -> None:
    language.with_base_name("null").save(tmp_path / "named")
    assert front_matter(tmp_path / "named")["base_model"] == ["null"]


@pytest.mark.parametrize("name", ["", "a/b/c", "a b", "../x", "a\nb", 'x"y', "é", "/x", "a" * 97])
def test_a_name_of_no_hub_is_refused(language: Composite, tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidOption, match="base name"):
        language.with_base_name(name)
    language.save(tmp_path / "saved")
    value = json.loads((tmp_path / "saved" / PROVENANCE).read_text())
    (tmp_path / "saved" / PROVENANCE).write_text(json.dumps(value | {"base_name": name}))
    with pytest.raises(CheckpointError, match="base's name"):
        open_composite(tmp_path / "saved")
