"""Composites: what they write, what they refuse to open, and that writing is all or nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from composed_files import mend_records
from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.compose.soup import Soup
from quiltwork.composite import PROVENANCE, Composite, Entry, Provenance, open_composite, saved_layout
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import AlteredContribution, CheckpointError, ExportError, InvalidOption, StorageError
from quiltwork.models.base import Base
from quiltwork.models.sources import Source

Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]


@pytest.fixture
def rows(tiny_base: Bases, contributions: Parts) -> Composite:
    return compose(contributions("olmo2"), MixtureOfExperts(LearnedRows()), tiny_base("olmo2"))


@pytest.fixture
def saved(rows: Composite, tmp_path: Path) -> Path:
    return rows.save(tmp_path / "saved")


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_parties_and_slots_are_sorted(rows: Composite) -> None:
    assert rows.parties == ("ash", "birch", "cedar")
    assert rows.slots == ("base", "ash", "birch", "cedar")
    assert rows.without("birch").slots == ("base", "ash", "cedar")


def test_provenance_says_what_went_in(rows: Composite, saved: Path, tiny_base: Bases, contributions: Parts) -> None:
    value = json.loads((saved / PROVENANCE).read_text())
    listed, digest = value["files"], value["digest"]
    assert {k: v for k, v in value.items() if k not in ("files", "digest")} == {
        "format": "quiltwork-composite",
        "version": 1,
        "layout": "portable",
        "base": tiny_base("olmo2").digest,
        "method": "learned_rows",
        "options": {
            "router": {"top_k": None, "renormalise": True, "bias": False},
            "scope": "ffn",
            "weights": {},
        },
        "public": None,
        "contributions": [
            {"party": c.party, "digest": c.digest, "licence": f"LicenseRef-{c.party}"} for c in contributions("olmo2")
        ],
    }
    written = [path for path in saved.iterdir() if path.name != PROVENANCE]
    assert listed == {
        path.name: {"bytes": path.stat().st_size, "digest": "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in written
    }
    said = json.dumps({k: v for k, v in value.items() if k != "digest"}, sort_keys=True, indent=2) + "\n"
    assert digest == "sha256:" + hashlib.sha256(said.encode()).hexdigest()
    assert Provenance.from_json(value, saved) == rows.provenance
    assert Provenance.from_json(value, saved).without("ash").contributions[0] == Entry(
        "birch", contributions("olmo2")[1].digest, "LicenseRef-birch"
    )


def test_only_those_that_take_part_are_in_the_provenance(tiny_base: Bases, contributions: Parts) -> None:
    some = compose(contributions("olmo2"), Soup(include=("cedar",)), tiny_base("olmo2"))
    assert [entry.party for entry in some.provenance.contributions] == ["cedar"]
    assert some.parties == ("cedar",)


def test_the_card_names_parties_licences_and_how_to_load(
    saved: Path, tiny_base: Bases, contributions: Parts, tmp_path: Path
) -> None:
    card = (saved / "README.md").read_text()
    assert "loads in plain `transformers`" in card
    for contribution in contributions("olmo2"):
        assert f"| {contribution.party} | `{contribution.digest}` | LicenseRef-{contribution.party} |" in card
    assert card.startswith("---\nlibrary_name: transformers\n")
    ensemble = compose(contributions("olmo2"), Ensemble(), tiny_base("olmo2"))
    ensemble.save(tmp_path / "ensemble")
    assert "`import quiltwork` before" in (tmp_path / "ensemble" / "README.md").read_text()


def test_a_licence_adds_no_row_to_the_card(rows: Composite) -> None:
    first, *others = rows.provenance.contributions
    odd = replace(first, licence="MIT |\n| forged | `sha256:0` | MIT")
    provenance = replace(rows.provenance, contributions=(odd, *others), inherited=(odd,))
    card = replace(rows, provenance=provenance).checkpoint("native").documents["README.md"].decode()
    assert len([line for line in card.splitlines() if line.startswith("| ")]) == 4
    assert "\n| forged" not in card


def test_the_default_layout_is_portable_where_possible(
    rows: Composite, tiny_base: Bases, contributions: Parts, public_text: Any, tmp_path: Path
) -> None:
    assert rows.default_layout() == "portable"
    evidence = compose(
        contributions("olmo2"), MixtureOfExperts(PrefixEvidence()), tiny_base("olmo2"), public=public_text("olmo2")
    )
    assert evidence.default_layout() == "native"
    for composite, layout in ((rows, "portable"), (evidence, "native")):
        composite.save(tmp_path / layout)
        assert saved_layout(tmp_path / layout) == layout


def test_the_model_is_in_evaluation_mode_and_repeatable(rows: Composite) -> None:
    one, other = rows.model(), rows.model()
    assert not one.training
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in one.state_dict().items())


# Writing is all or nothing.


def test_what_is_there_is_not_overwritten_unasked(rows: Composite, saved: Path) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(StorageError, match="does not overwrite unasked"):
        rows.without("ash").save(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    rows.without("ash").save(saved, overwrite=True)
    assert not (saved / "expert-ash.safetensors").exists()
    assert open_composite(saved).parties == ("birch", "cedar")


@pytest.fixture
def small_files() -> Iterator[None]:
    """A file system that takes no file above 20 kB: the kernel's refusal, met in the middle of a tensor file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_file_system_that_refuses_leaves_nothing(rows: Composite, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"writing '.*out': the file system does not take a file of this size"):
        rows.save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(rows: Composite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        if self.name == "config.json":
            raise OSError(errno.ENOSPC, "full")
        return inner(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="no space is left on the device"):
        rows.save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_interrupt_while_writing_leaves_things_as_they_were(
    overwrite: bool, rows: Composite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if overwrite:
        rows.without("ash").save(tmp_path / "out")
    before = {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    calls: list[str] = []
    inner = Contribution.pieces

    def interrupted(self: Contribution, name: str, size: int) -> Any:
        calls.append(name)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return inner(self, name, size)

    monkeypatch.setattr(Contribution, "pieces", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rows.save(tmp_path / "out", overwrite=overwrite)
    assert {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_an_impossible_layout_is_refused_before_writing(tiny_base: Bases, contributions: Parts, tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        compose(contributions("olmo2"), Ensemble(), tiny_base("olmo2")).save(tmp_path / "out", layout="portable")
    assert list(tmp_path.iterdir()) == []


# What cannot be opened.


def test_a_directory_without_provenance_is_refused(tmp_path: Path, tiny_base: Bases) -> None:
    with pytest.raises(CheckpointError, match=r"it holds no quiltwork\.json") as caught:
        open_composite(tiny_base("olmo2").path)
    assert "quiltwork compose" in caught.value.mend


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v.update(version=2),
        lambda v: v.update(format="other"),
        lambda v: v.pop("base"),
        lambda v: v.pop("method"),
        lambda v: v.update(contributions=None),
        lambda v: v.update(contributions=[{"party": "ash"}]),
        lambda v: v.update(contributions=["ash"]),
        lambda v: v["contributions"].reverse(),
        lambda v: v["contributions"].append(v["contributions"][-1]),
    ],
)
def test_provenance_of_another_kind_is_refused(saved: Path, change: Callable[[dict[str, Any]], object]) -> None:
    edit(saved / PROVENANCE, change)
    with pytest.raises(CheckpointError, match=r"quiltwork\.json.*not provenance that this version"):
        open_composite(saved)


@pytest.mark.parametrize("name", ["../ash", "ASH", "", "a" * 65, "a b", "ash\n", 5, None])
def test_names_that_are_no_party_s_are_refused(saved: Path, name: Any) -> None:
    edit(saved / PROVENANCE, lambda v: v["contributions"][0].update(party=name))
    with pytest.raises(CheckpointError, match=r"quiltwork\.json"):
        open_composite(saved)


def test_provenance_that_counts_otherwise_than_the_config_is_refused(saved: Path) -> None:
    edit(saved / PROVENANCE, lambda v: v["contributions"].pop())
    mend_records(saved)
    with pytest.raises(CheckpointError, match="4 experts for 2 parties"):
        open_composite(saved)


@pytest.mark.parametrize("file", ["expert-birch.safetensors", "router.safetensors", "shared.safetensors"])
def test_a_missing_shard_is_refused(saved: Path, file: str) -> None:
    (saved / file).unlink()
    with pytest.raises(CheckpointError, match=file):
        open_composite(saved)


def test_a_missing_tensor_is_refused(saved: Path) -> None:
    name = "model.layers.1.mlp.experts.2.up_proj.weight"
    tensors = load_file(saved / "expert-birch.safetensors")
    save_file({n: t for n, t in tensors.items() if n != name}, saved / "expert-birch.safetensors")
    mend_records(saved)
    with pytest.raises(CheckpointError, match=name):
        open_composite(saved)
    edit(saved / "model.safetensors.index.json", lambda v: v["weight_map"].pop(name))
    mend_records(saved)
    with pytest.raises(CheckpointError, match=f"does not hold what its config announces.*{name}"):
        open_composite(saved)


@pytest.mark.parametrize("field", ["model_type", "num_hidden_layers", "num_experts", "num_experts_per_tok"])
def test_a_config_without_a_field_is_refused(saved: Path, field: str) -> None:
    edit(saved / "config.json", lambda v: v.pop(field))
    mend_records(saved)
    with pytest.raises((CheckpointError, ExportError)):
        open_composite(saved)


@pytest.mark.parametrize("field", ["text_config", "router"])
@pytest.mark.parametrize("kind", ["ensemble", "moe"])
def test_a_native_config_without_a_field_is_refused(
    kind: str, field: str, tiny_base: Bases, contributions: Parts, public_text: Any, tmp_path: Path
) -> None:
    method = Ensemble() if kind == "ensemble" else MixtureOfExperts(PrefixEvidence())
    compose(contributions("olmo2"), method, tiny_base("olmo2"), public=public_text("olmo2")).save(tmp_path / "out")
    edit(tmp_path / "out" / "config.json", lambda v: v.pop(field))
    mend_records(tmp_path / "out")
    with pytest.raises(CheckpointError, match=f"does not hold what its config announces.*{field}"):
        open_composite(tmp_path / "out")


def test_too_few_weights_are_refused(tiny_base: Bases, contributions: Parts, tmp_path: Path) -> None:
    compose(contributions("olmo2"), Ensemble(), tiny_base("olmo2")).save(tmp_path / "out")
    edit(tmp_path / "out" / "config.json", lambda v: v["router"]["weights"].pop())
    mend_records(tmp_path / "out")
    with pytest.raises(CheckpointError, match="does not hold what its config announces"):
        open_composite(tmp_path / "out")


@pytest.mark.parametrize("value", [{}, {"layout": "sideways"}])
def test_an_unknown_layout_is_refused(value: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / PROVENANCE).write_text(json.dumps(value))
    with pytest.raises(CheckpointError, match="names no known layout"):
        saved_layout(tmp_path)


def test_an_opened_composite_needs_nothing_but_its_directory(saved: Path, tmp_path: Path) -> None:
    shutil.move(saved, tmp_path / "moved")
    opened = open_composite(tmp_path / "moved")
    opened.without("cedar").save(tmp_path / "rest")
    model = open_composite(tmp_path / "rest").model()
    assert len(model.body.model.layers[0].mlp.experts) == 3


def test_strangers_and_last_parties_do_not_leave(saved: Path) -> None:
    opened = open_composite(saved)
    with pytest.raises(InvalidOption, match="party 'oak'"):
        opened.without("oak")
    with pytest.raises(ExportError, match="the only one left"):
        opened.without("ash").without("birch").without("cedar")


def test_a_model_that_does_not_fit_its_tensors_is_a_defect(rows: Composite, monkeypatch: pytest.MonkeyPatch) -> None:
    from quiltwork.models.assembly import Experts

    inner = Experts.checkpoint

    def broken(self: Experts, layout: Any) -> Any:
        checkpoint = inner(self, layout)
        shards = {file: dict(table) for file, table in checkpoint.shards.items()}
        shards["shared.safetensors"]["body.stranger"] = Source.of(torch.zeros(1))
        return type(checkpoint)(checkpoint.config, shards)

    monkeypatch.setattr(Experts, "checkpoint", broken)
    with pytest.raises(AssertionError, match=r"body\.stranger"):
        rows.model()


def test_reading_an_altered_contribution_leaves_nothing(
    rows: Composite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def altered(self: Contribution, name: str, size: int) -> Any:
        yield from inner(self, name, size)
        raise AlteredContribution(name, why="its digest is not the declared one", mend="Fetch it again.")

    inner = Contribution.pieces
    monkeypatch.setattr(Contribution, "pieces", altered)
    with pytest.raises(AlteredContribution):
        rows.save(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
