"""Planted contributions are found under routed methods, honest ones are let alone; soups may be advised against."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from screen_plants import OWNERS, VICTIM, World, copied, greedy, label_noise, scaled, texts

from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import Method, compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.soup import Soup
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import CompatibilityError, DuplicateParty, InvalidOption, MissingPart
from quiltwork.evaluate.bits_per_byte import score
from quiltwork.evaluate.matrix import HeldOut
from quiltwork.evaluate.screen import screen
from quiltwork.evaluate.screen_record import Rule, Screening
from quiltwork.evaluate.screen_verdicts import loss_findings

FFN = MixtureOfExperts(PrefixEvidence())
FULL = MixtureOfExperts(PrefixEvidence(), scope="full")
PLANTS: dict[str, Callable[[World], Contribution]] = {
    "weights times 10": lambda w: scaled(w, 10.0),
    "weights times 100": lambda w: scaled(w, 100.0),
    "label noise": label_noise,
    "greedy histogram": lambda w: greedy(w, 1.0),
    "greedy histogram times 1000": lambda w: greedy(w, 1000.0),
    "copy": lambda w: copied(w, 0.0),
    "copy with noise": lambda w: copied(w, 0.05),
}


def with_plant(world: World, planted: Contribution | None) -> list[Contribution]:
    taken = dict(world.honest)
    if planted is not None:
        taken[planted.party] = planted
    return list(taken.values())


def screened(world: World, method: Method | None, planted: Contribution | None = None, **changes: Any) -> Screening:
    held_out = None if method is None else world.held_out
    given = with_plant(world, planted)
    return screen(given, world.base, method, **{"held_out": held_out, "public": world.public} | changes)


def accused(found: Screening) -> set[str]:
    return {one.party for one in found.contributions if one.verdict != "clean"}


def guilty(planted: Contribution) -> set[str]:
    return {VICTIM} if planted.party == VICTIM else {VICTIM, planted.party}


@pytest.fixture(scope="module")
def honest(world: World) -> Screening:
    return screened(world, FFN)


def test_honest_owners_are_clean(honest: Screening) -> None:
    assert accused(honest) == set()
    assert honest.advice == "compose"
    assert not honest.found
    assert [one.party for one in honest.contributions] == sorted(OWNERS)
    own = [one for one in honest.effects if one.party == one.text]
    assert len(own) == len(OWNERS)
    assert all(one.kind == "help" for one in own)


def test_the_figures_are_those_of_composites_scored_by_themselves(honest: Screening, world: World) -> None:
    given, tokenizer = with_plant(world, None), world.base.load_tokenizer()

    def bits(composed: list[Contribution], text: str) -> float:
        model = compose(composed, FFN, world.base, public=world.public).model()
        documents = world.held_out.domains[text]
        return score(model, tokenizer, documents, prefix=world.base.separator, max_length=64).bits_per_byte

    found = {(one.party, one.text): one for one in honest.effects}
    without = [c for c in given if c.party != "cedar"]
    for text in ("ash", "cedar", "public"):
        assert found["cedar", text].present == found["ash", text].present == pytest.approx(bits(given, text))
        assert found["cedar", text].absent == pytest.approx(bits(without, text))
    base = score(world.base.load_model(), tokenizer, texts("elm", 1000, 24), prefix=world.base.separator, max_length=64)
    assert found["", "elm"].absent == pytest.approx(base.bits_per_byte)


def test_captures_are_shares_of_a_text(honest: Screening) -> None:
    for text in honest.texts:
        shares = {one.party: one for one in honest.captures if one.text == text}
        assert set(shares) == {"base", *OWNERS}
        assert sum(one.share for one in shares.values()) == pytest.approx(1.0, abs=1e-5)
        own = text if text in OWNERS else "base"
        assert all(one.owner == pytest.approx(shares[own].share) for one in shares.values())
        assert all(one.uniform == 0.2 for one in shares.values())


@pytest.mark.parametrize("plant", PLANTS)
def test_what_is_planted_is_found_and_nobody_else_is_accused(plant: str, world: World) -> None:
    planted = PLANTS[plant](world)
    found = screened(world, FFN, planted)
    assert accused(found) == guilty(planted)
    assert found.advice in ("look first", "compose without some")
    assert all(finding.mend for one in found.contributions for finding in one.findings)


@pytest.mark.parametrize("plant", ["weights times 10", "greedy histogram times 1000", "copy", "copy with noise"])
def test_weights_and_histograms_alone_find_some(plant: str, world: World) -> None:
    planted = PLANTS[plant](world)
    found = screened(world, None, planted)
    assert accused(found) == guilty(planted)
    assert found.method is None
    assert found.texts == found.effects == found.captures == ()


def test_negative_control_weights_alone_miss_label_noise(world: World) -> None:
    assert accused(screened(world, None, label_noise(world))) == set()


def test_negative_control_without_the_check_of_losses_a_spoiled_expert_passes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    import quiltwork.evaluate.screen as room
    import quiltwork.evaluate.screen_rounds as rounds

    planted = label_noise(world)
    assert accused(screened(world, FFN, planted)) == {VICTIM}
    monkeypatch.setattr(rounds, "loss_findings", lambda *_: iter(()))
    monkeypatch.setattr(rounds, "together_findings", lambda *_: iter(()))
    monkeypatch.setattr(room, "expert_findings", lambda *_: iter(()))
    assert accused(screened(world, FFN, planted)) == set()


def test_a_soup_may_be_advised_against(world: World) -> None:
    found = screened(world, Soup())
    assert found.advice == "do not collaborate"
    assert "another method" in found.reason
    assert found.found
    assert found.captures == ()
    assert all(one.round == 1 for one in found.effects)


def test_copies_are_taken_out_together(world: World) -> None:
    planted = copied(world, 0.0)
    found = screened(world, FFN, planted)
    effects = {(one.party, one.text): one for one in found.effects}
    assert effects["fir", VICTIM].absent == effects[VICTIM, VICTIM].absent
    left = [c for c in world.honest.values() if c.party != VICTIM]
    model = compose(left, FFN, world.base, public=world.public).model()
    documents = world.held_out.domains[VICTIM]
    alone = score(model, world.base.load_tokenizer(), documents, prefix=world.base.separator, max_length=64)
    assert effects["fir", VICTIM].absent == pytest.approx(alone.bits_per_byte)


def test_what_is_set_aside_no_longer_counts_against_the_others(world: World) -> None:
    found = screened(world, FULL, greedy(world, 1.0))
    rounds = {one.round for one in found.effects}
    assert rounds == {1, 2}
    assert {one.party: one.set_aside for one in found.contributions if one.set_aside} == {VICTIM: 1}
    second = [one for one in found.effects if one.round == 2]
    assert VICTIM not in {one.party for one in second} | {one.text for one in second}
    # the first round would have accused the innocent
    first = [one for one in found.effects if one.round == 1]
    blamed = {party for party, f in loss_findings(first, {p: (p,) for p in OWNERS}) if f.level == "harm"}
    assert blamed - {VICTIM}


def test_a_single_contribution_is_held_against_the_base(world: World) -> None:
    only = world.honest["ash"]
    held_out = HeldOut({"ash": texts("ash", 1000, 12)}, ("ash",), max_length=64)
    found = screen([only], world.base, FFN, held_out=held_out, public=world.public)
    (whole, own) = found.effects
    assert (whole.party, own.party) == ("", "ash")
    assert whole.absent == own.absent
    assert own.kind == "help"
    assert accused(found) == set()


def test_few_documents_are_told(world: World) -> None:
    held_out = HeldOut({"ash": texts("ash", 1000, 3)}, ("ash",), max_length=64)
    found = screen(with_plant(world, None), world.base, FFN, held_out=held_out, public=world.public)
    assert {one.kind for one in found.effects} == {"unknown"}
    assert any("3 documents" in note for note in found.notes)
    assert "is not known: every text has too few documents" in found.reason


def test_a_text_that_is_not_judged_is_named_beside_those_that_are(world: World) -> None:
    held_out = HeldOut(
        {"ash": texts("ash", 1000, 3), "birch": texts("birch", 1000, 8)}, ("ash", "birch"), max_length=64
    )
    found = screen(with_plant(world, None), world.base, FFN, held_out=held_out, public=world.public)
    assert found.advice == "compose"
    assert "as far as is known: ash too small to judge" in found.reason


@pytest.mark.parametrize("bound", [2.0, None])
def test_a_missing_bound_is_told(bound: float | None, world: World) -> None:
    method = MixtureOfExperts(PrefixEvidence(bound=bound))
    held_out = HeldOut({"ash": texts("ash", 1000, 6)}, ("ash",), max_length=64)
    found = screen(with_plant(world, None), world.base, method, held_out=held_out, public=world.public)
    assert any("No bound on evidence" in note for note in found.notes) == (bound is None)
    assert len(found.notes) == (bound is None)


def test_the_order_does_not_matter_and_the_record_is_strict_json(honest: Screening, world: World) -> None:
    again = screen(
        list(reversed(with_plant(world, None))), world.base, FFN, held_out=world.held_out, public=world.public
    )
    assert again.to_json() == honest.to_json()
    value = json.loads(honest.to_json(), parse_constant=lambda name: pytest.fail(name))
    assert {row["party"]: row["verdict"] for row in value["contributions"]} == dict.fromkeys(OWNERS, "clean")
    for row in value["contributions"]:
        del row["verdict"]
    assert Screening.model_validate_json(json.dumps(value)) == honest


def test_what_does_not_belong_together_is_refused(world: World, tiny_base: Any) -> None:
    ash = world.honest["ash"]
    with pytest.raises(InvalidOption, match="nothing to screen"):
        screen([], world.base)
    with pytest.raises(InvalidOption, match="text without a method"):
        screen([ash], world.base, held_out=world.held_out)
    with pytest.raises(DuplicateParty):
        screen([ash, ash], world.base)
    with pytest.raises(CompatibilityError):
        screen([ash], tiny_base("llama"))
    bare = MixtureOfExperts(PrefixEvidence(features="trigrams"))
    with pytest.raises(MissingPart):
        screen([ash], world.base, bare, held_out=world.held_out, public=world.public)


def test_the_rule_is_the_composer_s(world: World) -> None:
    found = screened(world, Soup(), rule=Rule(harm=5.0))
    assert all(one.kind != "harm" for one in found.effects)
    assert found.advice != "do not collaborate" or "base" in found.reason


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "olmo2"])
@pytest.mark.parametrize("seed", range(1, 5))
def test_all_plants_and_nobody_else_over_seeds(family: str, seed: int, tmp_path: Any) -> None:
    world = World(tmp_path, seed, family)
    for method in (FFN, FULL):
        assert accused(screened(world, method)) == set()
        for name, plant in PLANTS.items():
            planted = plant(world)
            found = screened(world, method, planted)
            assert accused(found) == guilty(planted), (name, method.name)
    assert accused(screened(world, Ensemble("likelihood"))) == set()


@pytest.mark.slow
def test_negative_control_without_holding_histograms_against_text_the_innocent_is_blamed(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import quiltwork.evaluate.screen_rounds as rounds

    world = World(tmp_path, 4, "olmo2")
    planted = greedy(world, 1.0)
    assert accused(screened(world, FULL, planted)) == {VICTIM}
    monkeypatch.setattr(rounds, "description_findings", lambda *_: iter(()))
    assert accused(screened(world, FULL, planted)) - {VICTIM}


def test_plants_are_what_they_say(world: World) -> None:
    noisy = copied(world, 0.05)
    for name in ("full.model.layers.0.mlp.up_proj.weight", "bigrams.counts"):
        own, other = world.honest[VICTIM].tensor(name).double().numpy(), noisy.tensor(name).double().numpy()
        assert not np.array_equal(own, other)
        assert np.corrcoef(own.ravel(), other.ravel())[0, 1] > 0.99
    assert label_noise(world).tensor("bigrams.counts").equal(world.honest[VICTIM].tensor("bigrams.counts"))
