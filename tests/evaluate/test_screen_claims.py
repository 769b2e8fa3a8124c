"""How well histograms describe texts, against counting by hand; who is flagged for it, with controls."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from screen_plants import OWNERS, VICTIM, World, greedy, texts

from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.soup import Soup
from quiltwork.compose.statistics import histogram_of
from quiltwork.evaluate.matrix import HeldOut
from quiltwork.evaluate.screen_claims import description_findings, descriptions
from quiltwork.evaluate.screen_record import Description, Effect, Rule
from quiltwork.evidence.histogram import TokenHistogram


def of_tokens(world: World) -> dict[str, dict[str, TokenHistogram]]:
    found = {party: histogram_of(c, "tokens") for party, c in world.honest.items()}
    return {"tokens": found | {"public": world.public["tokens"]}}


@pytest.mark.parametrize("bound", [4.0, 0.5, None])
def test_the_gain_is_that_of_counting_tokens(bound: float | None, world: World) -> None:
    documents = ["", *texts("ash", 1000, 7)]
    method = MixtureOfExperts(PrefixEvidence(features="tokens", bound=bound, smoothing=0.25))
    found = descriptions(of_tokens(world), method, HeldOut({"ash": documents}, ("ash",)), world.base)
    assert [(one.party, one.text, one.documents) for one in found] == [(party, "ash", 7) for party in OWNERS]
    tokenizer = world.base.load_tokenizer()
    public = world.public["tokens"].counts
    for one in found:
        counts = world.honest[one.party].tensor("tokens.counts").numpy()

        def row(counts: np.ndarray, token: int) -> float:
            return math.log((counts[token] + 0.25) / (counts.sum() + 0.25 * len(counts)))

        means = []
        for document in documents[1:]:
            ids = tokenizer(document, add_special_tokens=False)["input_ids"]
            gains = [(row(counts, t) - row(public, t), n) for t, n in Counter(ids).items()]
            means.append(sum(min(g, math.inf if bound is None else bound) * n for g, n in gains) / len(ids))
        assert one.gain == pytest.approx(np.mean(means))
        assert one.error == pytest.approx(np.std(means, ddof=1) / math.sqrt(7))


@pytest.mark.parametrize("features", ["tokens", "bigrams", "trigrams"])
def test_honest_histograms_describe_their_own_text_best(features: str, world: World) -> None:
    held = {p: histogram_of(c, features) for p, c in world.honest.items() if features in c.parts}
    histograms = {features: held | {"public": world.public[features]}}
    method = MixtureOfExperts(PrefixEvidence(features=features))  # type: ignore[arg-type]
    found = descriptions(histograms, method, world.held_out, world.base)
    for party in held:
        gains = {one.text: one.gain for one in found if one.party == party}
        assert max(gains, key=lambda text: gains[text]) == party
    assert list(description_findings(found, [worse("elm", "ash")], Rule())) == []


def test_what_others_release_changes_nobody_s_figures(world: World) -> None:
    planted = greedy(world, 1.0)
    method = MixtureOfExperts(PrefixEvidence(features="tokens"))
    honest = of_tokens(world)
    bad = {"tokens": honest["tokens"] | {VICTIM: histogram_of(planted, "tokens")}}
    one, two = (
        {(d.party, d.text): d for d in descriptions(h, method, world.held_out, world.base)} for h in (honest, bad)
    )
    assert {key for key, value in one.items() if two[key] != value} == {
        (VICTIM, text) for text in world.held_out.domains
    }


def test_without_histograms_or_public_text_there_are_no_figures(world: World) -> None:
    alone = {part: {p: h for p, h in found.items() if p != "public"} for part, found in of_tokens(world).items()}
    method = MixtureOfExperts(PrefixEvidence(features="tokens", floor=0.0))
    assert descriptions(alone, method, world.held_out, world.base) == []
    assert descriptions(of_tokens(world), Soup(), world.held_out, world.base) == []


def described(party: str, documents: int = 20, error: float | None = 0.1, **gains: float) -> list[Description]:
    return [
        Description(party=party, text=text.replace("_", "."), gain=gain, error=error, documents=documents)
        for text, gain in gains.items()
    ]


def worse(party: str, text: str, change: float = 0.2, kind: str = "harm") -> Effect:
    known = {"present": 2.0 + change, "absent": 2.0, "error": 0.01, "chance": 0.03, "documents": 20}
    return Effect(party=party, text=text, change=change, kind=kind, **known)  # type: ignore[arg-type]


OTHERS = [*described("elm", elm=3.0, ash=0.0), *described("oak.b", oak=3.0)]


@pytest.mark.parametrize(
    ("found", "level"),
    [
        (described("ash", ash=0.0, elm=2.0), "look"),
        (described("ash", ash=-3.0, elm=2.0), "look"),
        (described("ash", ash=2.0, elm=2.5), None),
        (described("ash", ash=0.9, elm=2.0), None),  # by chance
        (described("ash", ash=0.0, elm=0.0), None),
        (described("ash", ash=0.0, public=2.0), None),
        (described("ash", elm=2.0), None),
        (described("ash", documents=3, ash=0.0, elm=2.0), None),
        (described("ash", documents=1, error=None, ash=0.0, elm=2.0), None),
        (described("oak.a", oak=0.0, elm=2.0, oak_a=3.0), None),  # an owner's own text, whichever share it is of
    ],
)
def test_whoever_describes_others_text_and_not_its_own_is_flagged(found: list[Description], level: str | None) -> None:
    effects = [worse("ash", "elm"), worse("oak.a", "elm")]
    flagged = [(party, f.level) for party, f in description_findings([*OTHERS, *found], effects, Rule())]
    assert flagged == ([] if level is None else [("ash", level)])


@pytest.mark.parametrize(
    ("effect", "level"),
    [
        (worse("elm", "ash"), "look"),
        (worse("", "ash"), "look"),
        (worse("ash", "wiki", kind="cost"), "look"),
        (worse("elm", "oak"), "note"),
        (worse("ash", "wiki", change=0.01, kind="cost"), "note"),
        (worse("elm", "ash", kind="none"), "note"),
    ],
)
def test_where_nobody_is_harmed_it_is_only_noted(effect: Effect, level: str) -> None:
    ((party, finding),) = description_findings([*OTHERS, *described("ash", ash=0.4, elm=2.0)], [effect], Rule())
    assert (party, finding.check, finding.level, finding.about) == ("ash", "claim", level, "elm")


@pytest.mark.parametrize(
    ("own", "other", "level"), [(-0.3, 2.0, "look"), (0.3, 2.0, "note"), (-0.3, 0.6, "note"), (-5.0, 2.0, "look")]
)
def test_where_it_says_nothing_of_its_own_text_it_is_asked_about_all_the_same(
    own: float, other: float, level: str
) -> None:
    found = [*OTHERS, *described("ash", ash=own, elm=other)]
    ((party, finding),) = description_findings(found, [worse("elm", "oak")], Rule())
    assert (party, finding.level) == ("ash", level)


def test_how_sure_it_must_be_is_the_rule_s() -> None:
    found = [*OTHERS, *described("ash", ash=0.4, elm=2.0)]
    for errors, flagged in ((2.0, ["ash"]), (10.0, [])):
        given = description_findings(found, [worse("elm", "ash")], Rule(errors=errors))
        assert [party for party, _ in given] == flagged
