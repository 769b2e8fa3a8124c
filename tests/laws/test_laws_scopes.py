"""The laws hold whatever form experts are stored in, and whether or not an owner hands over several of them.

One owner with a low-rank expert and LoRA, one with a narrow expert and differences, and one with two shares.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from law_checks import (
    FAMILIES,
    METHODS,
    Public,
    assert_same_files,
    check_opt_out,
    check_opt_out_from_disk,
    check_order,
    check_round_trip,
    check_same_function,
    layouts_of,
    some_ids,
)

from quiltwork.compose.method import compose
from quiltwork.composite import open_composite
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import read
from quiltwork.models.base import Base
from quiltwork.party.contribute import Order, contribute
from quiltwork.party.fragment import open_fragment
from quiltwork.party.lora import LoRAScope
from quiltwork.party.scopes import FFNScope, FullScope, LowRankScope, Scope
from quiltwork.training.loop import TrainingPlan

SCOPES: Mapping[str, tuple[Scope, Scope]] = {
    "ash": (LowRankScope(rank=3, bias=-0.1), LoRAScope(rank=2, alpha=4.0)),
    "birch": (FFNScope(bias=-0.1, width=20), FullScope()),
    "cedar.court": (FFNScope(bias=-0.1), FullScope(dtype="bfloat16")),
    "cedar.law": (LowRankScope(rank=32, bias=-0.1), LoRAScope(rank=1)),
}
CHOSEN = ["soup", "likelihood", "rows", "rows-bias", "evidence-ffn", "evidence-full"]
Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]
Publics = Callable[[str], Public]


@pytest.fixture(scope="module")
def forms(tiny_base: Bases, fragments: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """``forms(family)``: a contribution of each label."""

    @cache
    def build(family: str) -> tuple[Contribution, ...]:
        place = tmp_path_factory.mktemp(f"forms-{family}")
        plan = TrainingPlan(steps=4, batch_size=4, sequence_length=32, learning_rate=1e-2)
        for label, scopes in SCOPES.items():
            order = Order(party=label, scopes=scopes, plan=plan)
            fragment = open_fragment([fragments[label.partition(".")[0]]])
            with torch.enable_grad():
                contribute(tiny_base(family), fragment, place / label, order, force_cpu=True)
        return tuple(read(place / label) for label in SCOPES)

    return lambda family: list(build(family))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", CHOSEN)
def test_opting_out_is_exact(
    method: str, family: str, tiny_base: Bases, forms: Parts, public_text: Publics, tmp_path: Path
) -> None:
    for party in SCOPES:
        check_opt_out(forms(family), METHODS[method], tiny_base(family), public_text(family), party, tmp_path / party)


@pytest.mark.parametrize("method", [name for name in CHOSEN if name != "soup"])
def test_opting_out_from_disk_is_exact(
    method: str, tiny_base: Bases, forms: Parts, public_text: Publics, tmp_path: Path
) -> None:
    for party in ("ash", "cedar.court"):
        check_opt_out_from_disk(
            forms("llama"), METHODS[method], tiny_base("llama"), public_text("llama"), party, tmp_path / party
        )


@pytest.mark.parametrize("method", ["rows", "evidence-full"])
def test_an_owner_leaves_with_all_its_shares(
    method: str, tiny_base: Bases, forms: Parts, public_text: Publics, tmp_path: Path
) -> None:
    base, public, found = tiny_base("olmo2"), public_text("olmo2"), forms("olmo2")
    whole = compose(found, METHODS[method], base, public=public)
    rest = compose(found[:2], METHODS[method], base, public=public).save(tmp_path / "rest")
    whole.save(tmp_path / "whole")
    assert_same_files(whole.without("cedar").save(tmp_path / "memory"), rest)
    assert_same_files(open_composite(tmp_path / "whole").without("cedar").save(tmp_path / "disk"), rest)
    one_by_one = whole.without("cedar.law").without("cedar.court")
    assert_same_files(one_by_one.save(tmp_path / "one"), rest)


@pytest.mark.parametrize("method", ["soup", "rows", "evidence-ffn"])
def test_order_does_not_matter(
    method: str, tiny_base: Bases, forms: Parts, public_text: Publics, tmp_path: Path
) -> None:
    permutations = list(itertools.permutations(forms("llama")))[::7]
    check_order(permutations, METHODS[method], tiny_base("llama"), public_text("llama"), tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", CHOSEN)
def test_the_exported_model_is_the_composed_one(
    method: str, family: str, tiny_base: Bases, forms: Parts, public_text: Publics, tmp_path: Path
) -> None:
    base = tiny_base(family)
    composite = compose(forms(family), METHODS[method], base, public=public_text(family))
    for layout in layouts_of(composite):
        check_round_trip(composite, layout, some_ids(base), tmp_path / layout)


def trained(base: Base, contribution: Contribution) -> Any:
    """The module that the owner trained, anchor present for every sequence, with the tensors that left."""
    model = base.load_model()
    part = "lowrank" if "lowrank" in contribution.parts else "ffn"
    rank = len(contribution.tensor("lowrank.layers.0.up_proj.down")) if part == "lowrank" else 0
    width = 20 if contribution.party == "birch" else None
    scope = LowRankScope(rank, anchor_share=1.0) if rank else FFNScope(anchor_share=1.0, width=width)
    scope.prepare(model, contribution.party, lambda: [torch.ones(1, 4, dtype=torch.long)])
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            for role in ("gate_proj", "up_proj", "down_proj"):
                for name, parameter in getattr(layer.mlp.expert, role).named_parameters():
                    parameter.copy_(contribution.tensor(f"{part}.layers.{number}.{role}.{name}"))
            layer.mlp.row.copy_(contribution.tensor(f"{part}.layers.{number}.router.weight"))
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_two_slots_compute_what_the_owner_trained(family: str, tiny_base: Bases, forms: Parts) -> None:
    base = tiny_base(family)
    for contribution in forms(family):
        composite = compose([contribution], METHODS["rows"], base)
        check_same_function(composite.model(), trained(base, contribution), some_ids(base))


def test_the_check_refuses_factors_of_another_party(tiny_base: Bases, forms: Parts) -> None:
    base, found = tiny_base("llama"), forms("llama")
    composite = compose(found[:1], METHODS["rows"], base)
    other = trained(base, found[0])
    with torch.no_grad():
        other.model.layers[0].mlp.expert.up_proj.up.mul_(1.5)
    with pytest.raises(AssertionError, match="log-probabilities differ"):
        check_same_function(composite.model(), other, some_ids(base))
