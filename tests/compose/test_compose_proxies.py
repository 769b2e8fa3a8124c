"""Stand-ins by evidence and by name: scores against sums written out, choices that find planted documents."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from quiltwork.compose.proxies import LEAST_SYMBOLS, ProxyPlan, evidence_scores, likeness, named_documents, proxies
from quiltwork.contribution.kinds import BigramHistogramStatistic, StatisticsMethod
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import Draft, read, write
from quiltwork.errors import InvalidOption, MissingPart, TensorMismatch
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.base import Base
from quiltwork.party.contribute import Order, contribute
from quiltwork.party.fragment import open_fragment
from quiltwork.party.proxies import ProxyChoice
from quiltwork.privacy.events import ExactEvent

Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]


@pytest.fixture(scope="module")
def pool(fragments: dict[str, Path]) -> list[str]:
    """Public documents: six like each party's, but longer and none of them its own; some of neither."""
    found, generator = [], np.random.default_rng(0)
    for number in range(6):
        for path in fragments.values():
            words = sorted({word for word in path.read_text(encoding="utf-8").split() if word.isalpha()})
            found.append(" ".join(generator.choice(words, 20)))
        found.append("a public page about nothing in particular, number " + "one and " * (number + 3))
    return [*found, "short"]


def ids_of(base: Base, texts: list[str]) -> list[list[int]]:
    return base.load_tokenizer()(texts, add_special_tokens=False)["input_ids"]


def test_a_score_is_the_mean_log_ratio() -> None:
    party, public = TokenHistogram(np.array([3.0, 0.0, 1.0])), TokenHistogram(np.array([1.0, 1.0, 2.0]))
    documents = [np.array([0, 0, 2]), np.array([1])]

    def log_u(histogram: TokenHistogram, symbol: int) -> float:
        return math.log((histogram.counts[symbol] + 0.5) / (histogram.counts.sum() + 1.5))

    expected = [np.mean([log_u(party, s) - log_u(public, s) for s in d]) for d in documents]
    np.testing.assert_allclose(evidence_scores(documents, party, public), expected, rtol=1e-12)


@pytest.mark.parametrize("features", ["tokens", "bigrams"])
@pytest.mark.parametrize("selection", ["evidence", "dpp"])
def test_each_party_s_stand_ins_are_the_documents_like_its_own(
    selection: str, features: str, tiny_base: Bases, contributions: Parts, pool: list[str], fragments: dict[str, Path]
) -> None:
    base = tiny_base("olmo2")
    plan = ProxyPlan(selection, count=4, features=features)  # type: ignore[arg-type]
    found = proxies(contributions("olmo2"), pool, ids_of(base, pool), base.separator, plan)
    for party, texts in found.items():
        words = set(fragments[party].read_text(encoding="utf-8").split())
        assert len(texts) == len(set(texts)) == 4
        like = [set(text.split()) <= words for text in texts]
        # a diverse choice may end with a document that is merely unlike the others
        assert sum(like) >= (4 if selection == "evidence" else 3), (party, texts)
        assert like[0]


def test_a_diverse_choice_passes_over_copies(tiny_base: Bases, contributions: Parts, pool: list[str]) -> None:
    base, doubled = tiny_base("olmo2"), [text for text in pool for _ in range(3)]
    ids = ids_of(base, doubled)
    by_evidence, diverse = (
        proxies(contributions("olmo2"), doubled, ids, base.separator, ProxyPlan(selection, count=3))["ash"]
        for selection in ("evidence", "dpp")
    )
    assert len(set(by_evidence)) == 1
    assert len(set(diverse)) == 3


def test_short_documents_stand_in_for_nobody(tiny_base: Bases, contributions: Parts, pool: list[str]) -> None:
    base = tiny_base("olmo2")
    ids = ids_of(base, pool)
    assert len(ids[-1]) < LEAST_SYMBOLS
    found = proxies(contributions("olmo2"), pool, ids, base.separator, ProxyPlan(count=len(pool)))
    assert all(pool[-1] not in texts for texts in found.values())
    with pytest.raises(InvalidOption, match="none of them has 16 symbols"):
        proxies(contributions("olmo2"), ["short"], ids_of(base, ["short"]), base.separator, ProxyPlan())


@pytest.fixture(scope="module")
def named(tiny_base: Bases, fragments: dict[str, Path], pool: list[str], tmp_path_factory: object) -> Contribution:
    place = tmp_path_factory.mktemp("named") / "ash"  # type: ignore[attr-defined]
    order = Order(party="ash", scopes=(), bigrams=None, proxies=ProxyChoice(pool, count=4))
    contribute(tiny_base("olmo2"), open_fragment([fragments["ash"]]), place, order)
    return read(place)


def test_an_owner_names_documents_and_a_composer_finds_them(
    named: Contribution, tiny_base: Bases, pool: list[str], fragments: dict[str, Path]
) -> None:
    base = tiny_base("olmo2")
    shuffled = [*reversed(pool), "a page that the owner never saw"]
    plan = ProxyPlan("classifier")
    found = proxies([named], shuffled, ids_of(base, shuffled), base.separator, plan)["ash"]
    words = set(fragments["ash"].read_text(encoding="utf-8").split())
    assert len(found) == 4
    assert all(set(text.split()) <= words for text in found)
    assert named_documents(named, [found[1], found[0]]) == found[:2]


def test_naming_documents_is_a_release_that_no_theorem_covers(named: Contribution) -> None:
    events = [event for event in named.manifest.privacy if event.released == "proxies"]
    assert [type(event) for event in events] == [ExactEvent]
    assert named.parts >= {"proxies"}


def test_what_is_not_there_is_refused(
    named: Contribution, tiny_base: Bases, contributions: Parts, pool: list[str]
) -> None:
    base, ids = tiny_base("olmo2"), ids_of(tiny_base("olmo2"), pool)
    with pytest.raises(MissingPart, match=r"'ash'.*names no public documents"):
        proxies(contributions("olmo2")[:1], pool, ids, base.separator, ProxyPlan("classifier"))
    with pytest.raises(MissingPart, match="no histogram of bigrams"):
        proxies([named], pool, ids, base.separator, ProxyPlan())
    with pytest.raises(InvalidOption, match="none of those that its owner named"):
        named_documents(named, ["another page"])
    for wrong in ({"selection": "best"}, {"count": 0}, {"features": "words"}):
        with pytest.raises(InvalidOption):
            ProxyPlan(**wrong)  # type: ignore[arg-type]


def test_likeness_is_positive_only_where_something_resembles_the_party(
    tiny_base: Bases, contributions: Parts, pool: list[str]
) -> None:
    base, found = tiny_base("olmo2"), contributions("olmo2")
    alien = [f"a public page about nothing in particular, number {n}, one of several" for n in range(8)]
    for texts, sign in ((pool, 1), (alien, -1)):
        ids = ids_of(base, texts)
        chosen = proxies(found, texts, ids, base.separator, ProxyPlan(count=3))
        told = likeness(found, chosen, texts, ids, base.separator)
        assert sorted(told) == ["ash", "birch", "cedar"]
        assert all(score * sign > 0 for score in told.values()), told


def test_the_likeness_is_the_mean_score_of_those_chosen(
    tiny_base: Bases, contributions: Parts, pool: list[str]
) -> None:
    base, found = tiny_base("olmo2"), contributions("olmo2")[:1]
    kept = [text for text in pool if text != "short"]
    ids = ids_of(base, kept)
    party = TokenHistogram(found[0].tensor("tokens.counts").numpy())
    public = TokenHistogram(np.bincount(np.concatenate(ids), minlength=base.vocabulary_size).astype(float))
    scores = [np.mean([party.log_probabilities()[i] - public.log_probabilities()[i] for i in d]) for d in ids]
    plan = ProxyPlan(count=2, features="tokens")
    chosen = proxies(found, kept, ids, base.separator, plan)
    told = likeness(found, chosen, kept, ids, base.separator, "tokens")
    assert told["ash"] == pytest.approx(np.mean(sorted(scores)[-2:]), rel=1e-9)


def test_histograms_of_different_sizes_are_refused(
    named: Contribution, tiny_base: Bases, contributions: Parts, pool: list[str], tmp_path: Path
) -> None:
    base, found = tiny_base("olmo2"), contributions("olmo2")
    small = BigramHistogramStatistic(cells=16)
    draft = Draft(
        party="oak",
        base=found[0].manifest.base,
        method=StatisticsMethod(),
        tensors={"bigrams.counts": torch.ones(16, dtype=torch.float64)},
        statistics=[small],
        privacy=[ExactEvent(released="bigrams")],
        licence="CC0-1.0",
    )
    with pytest.raises(TensorMismatch, match=r"'oak'.*16 cells"):
        proxies([found[0], write(tmp_path / "oak", draft)], pool, ids_of(base, pool), base.separator, ProxyPlan())
