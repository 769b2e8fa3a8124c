"""Law 1: opting out is exact, in memory and from disk; law 2: order does not matter."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from law_checks import (
    FAMILIES,
    METHODS,
    SEPARABLE,
    SUMS,
    Public,
    assert_same_files,
    check_opt_out,
    check_opt_out_from_disk,
    check_order,
)

from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.parts import full_deltas
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.compose.soup import Soup
from quiltwork.composite import open_composite
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import ExportError, InvalidOption
from quiltwork.models.assembly import Members, add_deltas
from quiltwork.models.base import Base

Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]
Publics = Callable[[str], Public]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("party", ["ash", "birch", "cedar"])
def test_opt_out_is_exact(
    method: str, family: str, party: str, tiny_base: Bases, contributions: Parts, public_text: Publics, tmp_path: Path
) -> None:
    check_opt_out(contributions(family), METHODS[method], tiny_base(family), public_text(family), party, tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", SEPARABLE)
@pytest.mark.parametrize("party", ["ash", "birch"])
def test_opt_out_from_disk_is_exact(
    method: str, family: str, party: str, tiny_base: Bases, contributions: Parts, public_text: Publics, tmp_path: Path
) -> None:
    check_opt_out_from_disk(
        contributions(family), METHODS[method], tiny_base(family), public_text(family), party, tmp_path
    )


@pytest.mark.parametrize("renormalise", [True, False])
@pytest.mark.parametrize("top_k", [1, 2, 3, 4, None])
def test_opt_out_from_disk_is_exact_for_every_top_k(
    top_k: int | None, renormalise: bool, tiny_base: Bases, contributions: Parts, public_text: Publics, tmp_path: Path
) -> None:
    method = MixtureOfExperts(LearnedRows(top_k=top_k, renormalise=renormalise))
    check_opt_out_from_disk(contributions("olmo2"), method, tiny_base("olmo2"), public_text("olmo2"), "birch", tmp_path)


def test_two_parties_leave_in_either_order(tiny_base: Bases, contributions: Parts, tmp_path: Path) -> None:
    composite = compose(contributions("olmo2"), MixtureOfExperts(LearnedRows()), tiny_base("olmo2"))
    composite.without("ash").without("cedar").save(tmp_path / "one")
    composite.without("cedar").without("ash").save(tmp_path / "other")
    assert_same_files(tmp_path / "one", tmp_path / "other")


def test_a_removed_party_leaves_no_byte_of_its_tensors(tiny_base: Bases, contributions: Parts, tmp_path: Path) -> None:
    found = contributions("olmo2")
    needles = {c.party: c.tensor("ffn.layers.1.up_proj.weight").numpy().tobytes()[:64] for c in found}
    compose(found, MixtureOfExperts(LearnedRows()), tiny_base("olmo2")).without("birch").save(tmp_path / "rest")
    written = b"".join(path.read_bytes() for path in sorted((tmp_path / "rest").iterdir()))
    assert needles["ash"] in written
    assert needles["birch"] not in written
    assert b"birch" not in written


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", sorted(SUMS))
def test_a_sum_on_disk_cannot_be_taken_apart(
    method: str, family: str, tiny_base: Bases, contributions: Parts, tmp_path: Path
) -> None:
    compose(contributions(family), METHODS[method], tiny_base(family)).save(tmp_path / "soup")
    with pytest.raises(ExportError, match="a sum in which no party can be told from another") as caught:
        open_composite(tmp_path / "soup")
    assert "quiltwork compose" in caught.value.mend


def test_the_last_party_cannot_leave(tiny_base: Bases, contributions: Parts) -> None:
    composite = compose(contributions("olmo2")[:1], Soup(), tiny_base("olmo2"))
    with pytest.raises(ExportError, match="the only one left"):
        composite.without("ash")


def test_removing_a_stranger_names_the_parties(tiny_base: Bases, contributions: Parts) -> None:
    composite = compose(contributions("olmo2"), Soup(), tiny_base("olmo2"))
    with pytest.raises(InvalidOption, match=r"party 'oak'.*ash, birch, cedar"):
        composite.without("oak")


@pytest.mark.parametrize("router", [LearnedRows(), PrefixEvidence()])
def test_weights_of_the_others_stay(
    router: LearnedRows | PrefixEvidence, tiny_base: Bases, contributions: Parts, public_text: Publics, tmp_path: Path
) -> None:
    base, found, public = tiny_base("llama"), contributions("llama"), public_text("llama")
    weighted = MixtureOfExperts(router, weights={"ash": 3.0, "birch": 0.5, "base": 2.0})
    compose(found, weighted, base, public=public).without("birch").save(tmp_path / "left", layout="native")
    rest = replace(weighted, weights={"ash": 3.0, "base": 2.0})
    compose([found[0], found[2]], rest, base, public=public).save(tmp_path / "right", layout="native")
    assert_same_files(tmp_path / "left", tmp_path / "right")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", METHODS)
def test_order_does_not_matter(
    method: str, family: str, tiny_base: Bases, contributions: Parts, public_text: Publics, tmp_path: Path
) -> None:
    permutations = list(itertools.permutations(contributions(family)))[:: 1 if method in SUMS else 2]
    check_order(permutations, METHODS[method], tiny_base(family), public_text(family), tmp_path)


# Negative controls: each law's check refuses what breaks the law.


@dataclass(frozen=True)
class AveragedBody:
    """Keeps members apart, but averages everybody's embeddings into the base (a party's data outlive it)."""

    name: str = "averaged_body"

    def needs(self) -> frozenset[str]:
        return frozenset({"full"})

    def assemble(self, base: Base, contributions: list[Contribution], public: Public) -> Members:
        whole = Ensemble("uniform").assemble(base, contributions, public)
        name = "model.embed_tokens.weight"
        deltas = [(1 / len(contributions), full_deltas(c, base)[name]) for c in contributions]
        tensors = dict(whole.body.tensors) | {name: add_deltas(base.tensors[name], deltas)}
        return replace(whole, body=replace(whole.body, tensors=tensors))


def test_the_check_refuses_a_method_that_averages_shared_weights(
    tiny_base: Bases, contributions: Parts, public_text: Publics, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=r"shared\.safetensors"):
        check_opt_out(
            contributions("olmo2"), AveragedBody(), tiny_base("olmo2"), public_text("olmo2"), "ash", tmp_path / "a"
        )
    with pytest.raises(AssertionError, match=r"shared\.safetensors"):
        check_opt_out_from_disk(
            contributions("olmo2"), AveragedBody(), tiny_base("olmo2"), public_text("olmo2"), "ash", tmp_path / "b"
        )


def test_the_check_refuses_a_shard_left_behind(tiny_base: Bases, contributions: Parts, tmp_path: Path) -> None:
    composite = compose(contributions("olmo2"), MixtureOfExperts(LearnedRows()), tiny_base("olmo2"))
    composite.save(tmp_path / "whole")
    composite.without("ash").save(tmp_path / "one")
    composite.without("ash").save(tmp_path / "other")
    assert_same_files(tmp_path / "one", tmp_path / "other")
    shutil.copy(tmp_path / "whole" / "expert-ash.safetensors", tmp_path / "one")
    with pytest.raises(AssertionError):
        assert_same_files(tmp_path / "one", tmp_path / "other")


def test_the_check_refuses_one_changed_byte_and_another_mode(tmp_path: Path) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"same")
    assert_same_files(tmp_path / "one", tmp_path / "other")
    (tmp_path / "one" / "file").chmod(0o600)
    with pytest.raises(AssertionError, match="file"):
        assert_same_files(tmp_path / "one", tmp_path / "other")
    (tmp_path / "one" / "file").chmod(0o644)
    (tmp_path / "one" / "file").write_bytes(b"sane")
    with pytest.raises(AssertionError, match="file"):
        assert_same_files(tmp_path / "one", tmp_path / "other")


def test_the_check_refuses_a_composer_that_heeds_the_order(
    tiny_base: Bases, contributions: Parts, tmp_path: Path
) -> None:
    def first_counts_double(found: list[Contribution], method: Soup, base: Base, public: Public) -> object:
        return compose(found, replace(method, weights={found[0].party: 2.0}), base, public=public)

    permutations = list(itertools.permutations(contributions("olmo2")))
    with pytest.raises(AssertionError, match=r"model\.safetensors"):
        check_order(permutations, Soup(), tiny_base("olmo2"), {}, tmp_path, composer=first_counts_double)


def test_a_composite_is_a_value_that_removal_leaves_alone(
    tiny_base: Bases, contributions: Parts, public_text: Publics, tmp_path: Path
) -> None:
    composite = compose(
        contributions("llama"), METHODS["evidence-ffn"], tiny_base("llama"), public=public_text("llama")
    )
    composite.save(tmp_path / "before")
    composite.without("cedar")
    composite.save(tmp_path / "after")
    assert_same_files(tmp_path / "before", tmp_path / "after")
