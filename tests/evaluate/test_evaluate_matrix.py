"""The score matrix against models scored one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from quiltwork.compose.alone import Alone
from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import Method, compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.compose.soup import Soup
from quiltwork.composite import Composite
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.evaluate.bits_per_byte import score
from quiltwork.evaluate.matrix import Candidates, HeldOut, machine, run, score_matrix
from quiltwork.evaluate.scores import Scores, from_json
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.base import Base

FAMILY, LENGTH = "olmo2", 24
PARTIES = ("ash", "birch", "cedar")
DOMAINS = {
    "ash": ["", "the ferry crosses before noon: naïve café – 東京 🜚 " * 3, "stones"],
    "birch": ["def return yield import class lambda", "raise except  finally\n\twhile"],
    "cedar": ["plaintiff court appeal statute counsel"],
    "web": ["a public page about nothing in particular"],
}
METHODS: tuple[Method, ...] = (
    Soup(),
    MixtureOfExperts(LearnedRows()),
    MixtureOfExperts(PrefixEvidence()),
    MixtureOfExperts(PrefixEvidence(), scope="full"),
    Ensemble("uniform"),
)
SAMPLED = ("learned_rows", "evidence_ffn")


@pytest.fixture(scope="module")
def base(tiny_base: Callable[[str], Base]) -> Base:
    return tiny_base(FAMILY)


@pytest.fixture(scope="module")
def given(contributions: Callable[[str], list[Contribution]]) -> list[Contribution]:
    return contributions(FAMILY)


@pytest.fixture(scope="module")
def public(public_text: Callable[[str], Mapping[str, TokenHistogram]]) -> Mapping[str, TokenHistogram]:
    return public_text(FAMILY)


@pytest.fixture(scope="module")
def composites(base: Base, given: list[Contribution], public: Any) -> dict[str, Composite]:
    return {method.name: compose(given, method, base, public=public) for method in METHODS}


@pytest.fixture(scope="module")
def held_out() -> HeldOut:
    return HeldOut(DOMAINS, PARTIES, max_length=LENGTH, batch_size=4)


@pytest.fixture(scope="module")
def announced() -> list[str]:
    return []


@pytest.fixture(scope="module")
def scores(
    base: Base, given: list[Contribution], composites: dict[str, Composite], held_out: HeldOut, announced: list[str]
) -> Scores:
    candidates = Candidates(
        base.load_model,
        composites,
        alone={c.party: compose([c], Alone(), base) for c in given},
        leave_one_out=["evidence_ffn"],
        others={"pooled": base.load_model},
    )
    return score_matrix(
        candidates,
        base.load_tokenizer(),
        held_out,
        prefix=base.separator,
        sample_methods=SAMPLED,
        on_row=announced.append,
    )


def direct(model: Any, base: Base) -> dict[str, float]:
    tokenizer = base.load_tokenizer()
    return {
        domain: score(model, tokenizer, texts, prefix=base.separator, max_length=LENGTH, batch_size=4).bits_per_byte
        for domain, texts in DOMAINS.items()
    }


# rows and cells -------------------------------------------------------


def test_every_cell_is_the_score_of_that_model_on_that_text(
    scores: Scores, composites: dict[str, Composite], base: Base
) -> None:
    assert set(scores.methods) == {"base", "pooled", *composites}
    for name, composite in composites.items():
        assert scores.row(name) == direct(composite.model(), base)
    assert scores.row("base") == scores.row("pooled") == direct(base.load_model(), base)
    assert scores.row("base") != scores.row("soup")


def test_each_party_alone_is_its_own_full_model(scores: Scores, given: list[Contribution], base: Base) -> None:
    assert set(scores.alone) == set(PARTIES)
    for contribution in given:
        found = {d: cell.value for d, cell in scores.alone[contribution.party].domains.items()}
        model = base.load_model()
        state = model.state_dict()
        for name in base.tensors:
            state[name] += contribution.tensor(f"full.{name}")
        assert found == pytest.approx(direct(model, base), rel=1e-6)


def test_leaving_one_out_is_composing_without_it(
    scores: Scores, given: list[Contribution], base: Base, public: Any
) -> None:
    assert set(scores.leave_one_out) == {"evidence_ffn"}
    rows = scores.leave_one_out["evidence_ffn"]
    assert set(rows) == set(PARTIES)
    for party, row in rows.items():
        rest = [c for c in given if c.party != party]
        model = compose(rest, MixtureOfExperts(PrefixEvidence()), base, public=public).model()
        assert {d: cell.value for d, cell in row.domains.items()} == direct(model, base)
        assert row.total_params < scores.methods["evidence_ffn"].total_params


def test_one_party_has_nobody_to_leave_out(base: Base, given: list[Contribution], public: Any) -> None:
    method = MixtureOfExperts(PrefixEvidence())
    candidates = Candidates(
        base.load_model, {method.name: compose(given[:1], method, base, public=public)}, leave_one_out=[method.name]
    )
    found = score_matrix(
        candidates, base.load_tokenizer(), HeldOut({"ash": ["stones"]}, ("ash",)), prefix=base.separator
    )
    assert found.leave_one_out == {method.name: {}}
    assert found.samples == ()


def test_cells_say_how_much_text_was_scored(scores: Scores) -> None:
    for row in (*scores.methods.values(), *scores.alone.values()):
        for domain, cell in row.domains.items():
            assert cell.amount == sum(len(text.encode()) for text in DOMAINS[domain])
            assert cell.items == sum(1 for text in DOMAINS[domain] if text)


def test_names_are_sorted_into_parties_and_public(scores: Scores) -> None:
    assert scores.parties == PARTIES
    assert scores.public == ("web",)
    assert scores.domains == tuple(DOMAINS)
    assert scores.machine == machine()
    assert "1 thread" in scores.machine


def test_every_row_is_announced_before_it_is_scored(scores: Scores, announced: list[str]) -> None:
    expected = ["base", *(m.name for m in METHODS), "pooled", *(f"{p} alone" for p in PARTIES)]
    assert announced == expected + [f"evidence_ffn without {p}" for p in PARTIES]


def test_parameters_active_and_in_all(scores: Scores, base: Base) -> None:
    dense = sum(p.numel() for p in base.load_model().parameters())
    for name in ("base", "soup", "pooled"):
        assert scores.methods[name].active_params == scores.methods[name].total_params == dense
    everyone = scores.methods["uniform_ensemble"]
    assert everyone.active_params == everyone.total_params == 4 * dense
    for name in ("evidence_ffn", "evidence_full"):
        row = scores.methods[name]
        assert dense <= row.active_params < row.total_params
    assert all(row.seconds > 0 for row in scores.methods.values())


def test_the_file_survives_its_format(scores: Scores) -> None:
    assert from_json(scores.to_json()) == scores


# routing and samples --------------------------------------------------


def test_routing_is_kept_where_there_is_a_router(scores: Scores, base: Base) -> None:
    assert set(scores.routing) == {"learned_rows", "evidence_ffn", "evidence_full", "uniform_ensemble"}
    for name, domains in scores.routing.items():
        assert set(domains) == set(DOMAINS)
        for routing in domains.values():
            assert routing.slots == ("base", *PARTIES)
            assert len(routing.layers) == (base.layers if name == "learned_rows" else 1)
            assert all(sum(layer) == pytest.approx(1, abs=1e-5) for layer in routing.layers)
    for party in PARTIES:  # evidence sends each owner's text to its owner
        shares = scores.routing["evidence_ffn"][party].mean()
        assert max(shares, key=shares.__getitem__) == party


def test_samples_are_the_text_itself_in_pieces(scores: Scores) -> None:
    """Also where one character takes several tokens, and where a domain's first document is empty."""
    assert [(s.method, s.domain) for s in scores.samples] == [(m, d) for m in SAMPLED for d in DOMAINS]
    for sample in scores.samples:
        text = next(text for text in DOMAINS[sample.domain] if text)
        shown = "".join(token.text for token in sample.tokens)
        assert shown == text if len(sample.tokens) < 160 else text.startswith(shown)
        assert {token.slot for token in sample.tokens} <= {"base", *PARTIES}


def test_a_sample_names_the_slot_of_largest_weight(
    scores: Scores, composites: dict[str, Composite], base: Base
) -> None:
    import torch

    model: Any = composites["evidence_ffn"].model()
    tokenizer: Any = base.load_tokenizer()
    (sample,) = (s for s in scores.samples if (s.method, s.domain) == ("evidence_ffn", "birch"))
    ids = tokenizer.encode(DOMAINS["birch"][0], add_special_tokens=False)
    weights = model.evidence(torch.tensor([[base.separator, *ids[:-1]]]), None, None)[0][0]
    assert len(sample.tokens) == len(ids)
    for token, row in zip(sample.tokens, weights, strict=True):
        assert token.slot == ("base", *PARTIES)[int(row.argmax())]
        assert token.weight == pytest.approx(float(row.max()), abs=1e-6)


def test_a_sample_is_cut_at_its_length(base: Base, composites: dict[str, Composite], held_out: HeldOut) -> None:
    composite = composites["evidence_ffn"]
    found = run(
        composite.model(), base.load_tokenizer(), held_out, prefix=0, slots=composite.slots, name="x", sample_tokens=5
    )
    assert {len(sample.tokens) for sample in found.samples} == {5}
    for sample in found.samples:
        text = next(text for text in DOMAINS[sample.domain] if text)
        assert text.startswith("".join(token.text for token in sample.tokens).removesuffix("\N{REPLACEMENT CHARACTER}"))


def test_a_sample_counts_for_no_figure(base: Base, composites: dict[str, Composite], held_out: HeldOut) -> None:
    composite, rows = composites["evidence_full"], []
    for length in (0, 50):
        found = run(
            composite.model(),
            base.load_tokenizer(),
            held_out,
            prefix=0,
            slots=composite.slots,
            name="x",
            sample_tokens=length,
        )
        rows.append((found.row.active_params, found.row.domains, found.routing))
    assert rows[0] == rows[1]


# refusals -------------------------------------------------------------


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_a_domain_without_text_is_refused_by_name(texts: list[str]) -> None:
    with pytest.raises(InvalidOption, match="domain 'law': it holds no text to score"):
        HeldOut({"web": ["text"], "law": texts}, ("law",))
