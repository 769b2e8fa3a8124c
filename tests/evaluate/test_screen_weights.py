"""Sizes of changes and cosines against NumPy; what is scaled, copied or idle, with controls."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from screen_plants import OWNERS, VICTIM, World, copied, is_weight, scaled, texts

from quiltwork.contribution.sealed import Contribution
from quiltwork.evaluate import screen_weights
from quiltwork.evaluate.screen_record import Likeness
from quiltwork.evaluate.screen_verdicts import copy_findings, groups, is_copy
from quiltwork.evaluate.screen_weights import size_findings, weigh
from quiltwork.party.scopes import FFNScope, LowRankScope

BOTH = frozenset({"ffn", "full"})


@pytest.fixture(scope="module")
def honest(world: World) -> list[Contribution]:
    return list(world.honest.values())


def changes(contribution: Contribution, world: World) -> dict[str, np.ndarray]:
    base = world.base
    found = {f"full.{n}": contribution.tensor(f"full.{n}").double().numpy() for n in base.tensors}
    for layer in range(base.layers):
        for role in ("gate_proj", "up_proj", "down_proj"):
            own = base.tensors[f"model.layers.{layer}.mlp.{role}.weight"].load().double()
            expert = contribution.tensor(f"ffn.layers.{layer}.{role}.weight").double()
            found[f"ffn.layers.{layer}.{role}"] = (expert - own).numpy()
    return found


def flat(tensors: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([tensors[name].reshape(-1) for name in sorted(tensors)])


def test_sizes_and_cosines_are_those_of_the_tensors(world: World, honest: list[Contribution]) -> None:
    weights, likeness = weigh(honest, world.base, BOTH)
    known = {c.party: changes(c, world) for c in honest}
    rows = {name: s.load().double().numpy() for name, s in world.base.tensors.items()}
    for layer in range(world.base.layers):
        for role in ("gate_proj", "up_proj", "down_proj"):
            rows[f"ffn.layers.{layer}.{role}"] = rows[f"model.layers.{layer}.mlp.{role}.weight"]
    reference = {name: rows[name.removeprefix("full.")] for name in known["ash"]}
    for party, tensors in known.items():
        size = np.linalg.norm(flat(tensors)) / np.linalg.norm(flat(reference))
        assert weights[party].size == pytest.approx(size)
        for name, change in tensors.items():
            relative = np.linalg.norm(change) / np.linalg.norm(reference[name])
            assert weights[party].tensors[name] == pytest.approx(relative)
        others = np.median([weights[p].size for p in known if p != party])
        assert weights[party].others == pytest.approx(others)
    for pair in likeness:
        one, other = (flat(known[party]) for party in pair.parties)
        assert pair.cosine == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
        assert pair.identical == 0
    assert [pair.parties for pair in likeness] == list(combinations(OWNERS, 2))


def test_large_tensors_are_compared_at_some_places(
    world: World, honest: list[Contribution], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = weigh(honest, world.base, BOTH)[1]
    monkeypatch.setattr(screen_weights, "SAMPLED", 700)
    sampled, again = (weigh(honest, world.base, BOTH)[1] for _ in range(2))
    assert sampled == again
    assert sampled != exact
    for one, two in zip(exact, sampled, strict=True):
        assert one.cosine == pytest.approx(two.cosine, abs=0.1)


def test_honest_owners_are_let_alone(world: World, honest: list[Contribution]) -> None:
    for parts in (BOTH, {"ffn"}, {"full"}):
        weights, likeness = weigh(honest, world.base, frozenset(parts))
        assert list(size_findings(weights)) == []
        assert list(copy_findings(likeness)) == []


@pytest.mark.parametrize("factor", [10.0, 100.0])
def test_scaled_weights_are_found_and_nobody_else(world: World, factor: float) -> None:
    contributions = [scaled(world, factor) if c.party == VICTIM else c for c in world.honest.values()]
    found = list(size_findings(weigh(contributions, world.base, BOTH)[0]))
    assert [(party, finding.level) for party, finding in found] == [(VICTIM, "look")]


def test_one_scaled_tensor_is_named(world: World) -> None:
    name = "ffn.layers.1.up_proj.weight"
    odd = world.altered(world.honest[VICTIM], lambda n, t: t * 12 if n == name else t)
    contributions = [odd if c.party == VICTIM else c for c in world.honest.values()]
    weights, _ = weigh(contributions, world.base, BOTH)
    assert weights[VICTIM].size < 4 * weights["ash"].size
    found = [(party, finding.about) for party, finding in size_findings(weights)]
    assert found == [(VICTIM, "ffn.layers.1.up_proj")]


def test_an_expert_that_changes_nothing_is_noted(world: World) -> None:
    def undone(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name.startswith("full."):
            return tensor * 0
        if is_weight(name):
            layer, role = name.split(".")[2:4]
            return world.base.tensors[f"model.layers.{layer}.mlp.{role}.weight"].load()
        return tensor

    idle = world.altered(world.honest[VICTIM], undone)
    weights, likeness = weigh([idle, world.honest["ash"]], world.base, BOTH)
    assert [(p, f.level, f.what) for p, f in size_findings(weights)] == [(VICTIM, "note", "it changes nothing")]
    assert likeness[0].cosine is None
    # two idle owners have the same bytes, and are no copies of each other
    twin = world.altered(idle, lambda _, t: t, party="gum")
    (pair,) = weigh([idle, twin], world.base, BOTH)[1]
    assert pair.compared > pair.identical


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_copies_are_found_with_noise_too(world: World, noise: float) -> None:
    contributions = [*world.honest.values(), copied(world, noise)]
    likeness = weigh(contributions, world.base, BOTH)[1]
    assert {pair.parties for pair in likeness if is_copy(pair)} == {(VICTIM, "fir")}
    assert {party for party, _ in copy_findings(likeness)} == {VICTIM, "fir"}
    together = groups([c.party for c in contributions], likeness)
    assert together["fir"] == together[VICTIM] == (VICTIM, "fir")
    assert together["ash"] == ("ash",)


def test_negative_control_a_check_of_bytes_alone_misses_a_copy_with_noise(world: World) -> None:
    (pair,) = weigh([world.honest[VICTIM], copied(world, 0.05)], world.base, BOTH)[1]
    assert not is_copy(pair.model_copy(update={"cosine": None}))
    assert is_copy(pair)


def test_copies_of_copies_are_judged_together_and_so_are_an_owner_s_shares() -> None:
    def pair(one: str, other: str, cosine: float) -> Likeness:
        return Likeness(parties=(one, other), cosine=cosine, identical=0, compared=3)

    likeness = [pair("a", "b", 0.999), pair("b", "c", 0.999), pair("a", "c", 0.2), pair("a", "oak", 0.1)]
    found = groups(["a", "b", "c", "oak", "oak.code"], likeness)
    assert found["a"] == found["c"] == ("a", "b", "c")
    assert found["oak"] == found["oak.code"] == ("oak", "oak.code")


@pytest.mark.parametrize("parts", [BOTH, {"ffn"}, {"full"}])
def test_a_single_contribution_is_held_against_the_base(world: World, parts: set[str]) -> None:
    weights, likeness = weigh([world.honest[VICTIM]], world.base, frozenset(parts))
    assert list(size_findings(weights)) == likeness == []
    weights, _ = weigh([scaled(world, 10.0)], world.base, frozenset(parts))
    assert weights[VICTIM].others is None
    assert [(party, f.check, f.level) for party, f in size_findings(weights)] == [(VICTIM, "norm", "look")]


def test_one_scaled_matrix_of_a_single_contribution_is_named_and_a_vector_is_not(world: World) -> None:
    for name, blamed in (("full.model.layers.1.mlp.up_proj.weight", True), ("full.model.norm.weight", False)):
        own = world.base.tensors[name.removeprefix("full.")].load()
        odd = world.altered(world.honest[VICTIM], lambda n, t, name=name, own=own: own * 4 if n == name else t)
        weights, _ = weigh([odd], world.base, frozenset({"full"}))
        assert weights[VICTIM].tensors[name] == pytest.approx(4.0)
        assert weights[VICTIM].size < screen_weights.LARGE
        assert [f.about for _, f in size_findings(weights)] == ([name] if blamed else [])


def test_a_whole_expert_beside_low_rank_ones_is_let_alone_and_a_scaled_one_is_not(
    world: World, honest: list[Contribution]
) -> None:
    small = [
        world._contribute(world.base, party, texts(party, world.seed, 20), (LowRankScope(rank=2),), 2)
        for party in ("ash", "cedar", "elm")
    ]
    whole = next(c for c in honest if c.party == VICTIM)
    weights, _ = weigh([whole, *small], world.base, frozenset({"ffn"}))
    assert weights[VICTIM].size > 4 * max(weights[c.party].size for c in small)
    assert weights[VICTIM].others is None
    assert {w.form for p, w in weights.items() if p != VICTIM} == {"lowrank"}
    assert list(size_findings(weights)) == []
    weights, _ = weigh([scaled(world, 10.0), *small], world.base, frozenset({"ffn"}))
    assert [(party, f.check) for party, f in size_findings(weights)] == [(VICTIM, "norm")]


def test_an_owner_s_shares_are_no_measure_for_each_other(world: World) -> None:
    shares = [world.altered(scaled(world, 3.0), lambda _, t: t, party=f"oak.{n}") for n in "abc"]
    weights, _ = weigh([*shares, world.honest["ash"], world.honest["elm"]], world.base, frozenset({"full"}))
    usual = np.exp(np.median([np.log(weights[p].size) for p in ("ash", "elm")]))
    assert weights["oak.a"].others == pytest.approx(usual)
    # negative control: among themselves they would be as usual
    assert weights["oak.a"].size == pytest.approx(weights["oak.b"].size)


def test_narrow_experts_are_held_against_the_base_s_root_mean_square(world: World, tmp_path: Path) -> None:
    from quiltwork.evaluate.screen_weights import _measure, _Sums
    from quiltwork.models.sources import Source

    own: Any = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    narrow = own[:3] * 2
    sums = _Sums()
    _measure(sums, "ffn", Source.of(narrow), Source.of(own), False, b"seed")
    rms = [float(t.double().square().mean().sqrt()) for t in (narrow, own)]
    assert sums.size == pytest.approx(rms[0] / rms[1])


def _nearer(contribution: Contribution, world: World) -> Contribution:
    """The contribution with a tenth of its change."""
    change = changes(contribution, world)

    def part(name: str, tensor: torch.Tensor) -> torch.Tensor:
        whole = change.get(name.removesuffix(".weight")) if name.startswith("ffn.") else None
        return tensor if whole is None else tensor - 0.9 * torch.from_numpy(whole).to(tensor.dtype)

    return world.altered(contribution, part)


def test_a_narrow_expert_is_no_outlier_among_whole_ones_unless_it_is_scaled(
    world: World, honest: list[Contribution]
) -> None:
    documents = texts(VICTIM, world.seed, 20)
    narrow = world._contribute(world.base, VICTIM, documents, (FFNScope(width=24),), 4)
    others = [_nearer(c, world) for c in honest if c.party != VICTIM]
    weights, _ = weigh([narrow, *others], world.base, frozenset({"ffn"}))
    assert weights[VICTIM].others == 1.0
    assert 4 * float(np.median([weights[c.party].size for c in others])) < weights[VICTIM].size < 2
    assert list(size_findings(weights)) == []
    assert {VICTIM} == {p for p, w in weights.items() if any(name.startswith("narrow.") for name in w.tensors)}
    large = world.altered(narrow, lambda name, t: t * 10 if is_weight(name) else t)
    accused = list(size_findings(weigh([large, *others], world.base, frozenset({"ffn"}))[0]))
    assert [(party, finding.check) for party, finding in accused] == [(VICTIM, "norm")]
