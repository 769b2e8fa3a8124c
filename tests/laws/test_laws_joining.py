"""Joining is exact: who joins a composed language model later might as well have been there from the start."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from law_checks import METHODS, PROMPTS, SEPARABLE, Public, assert_same_files, layouts_of

from quiltwork.compose.joining_language import joined_language
from quiltwork.compose.method import Method, compose
from quiltwork.compose.mixture import LearnedRows, MixtureOfExperts, PrefixEvidence
from quiltwork.composite import Composite, open_composite
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.base import Base

Bases = Callable[[str], Base]
Parts = Callable[[str], list[Contribution]]
Publics = Callable[[str], Public]
Joiner = Callable[[Composite, Sequence[Contribution]], Composite]

MEASURED = frozenset({"lda-public", "lda-public-plain"})
"""Methods that measure those who join by more of the public text than a composed model holds."""

ASKING = frozenset({"prompts", "prompts-last"})
"""Methods that run the base, on prompts of those who join."""


def check_joining(
    contributions: Sequence[Contribution],
    method: Method,
    base: Base,
    public: Public,
    late: str,
    place: Path,
    joiner: Joiner = joined_language,
) -> None:
    """join(open(save(compose(S - {p}))), p) == compose(S), byte for byte in every layout that holds the model."""
    whole = compose(contributions, method, base, public=public)
    early = compose([c for c in contributions if c.party != late], method, base, public=public)
    for layout in layouts_of(whole):
        whole.save(place / f"whole-{layout}", layout=layout)  # type: ignore[arg-type]
        early.save(place / f"early-{layout}", layout=layout)  # type: ignore[arg-type]
        joined = joiner(open_composite(place / f"early-{layout}"), [c for c in contributions if c.party == late])
        joined.save(place / f"joined-{layout}", layout=layout)  # type: ignore[arg-type]
        assert_same_files(place / f"joined-{layout}", place / f"whole-{layout}")


@pytest.mark.parametrize("method", SEPARABLE)
@pytest.mark.parametrize(("family", "late"), [("olmo2", "ash"), ("llama", "cedar")])
def test_joining_is_exact(
    method: str, family: str, late: str, tiny_base: Bases, contributions: Parts, public_text: Publics, tmp_path: Path
) -> None:
    base, public = tiny_base(family), public_text(family)
    joiner = partial(
        joined_language,
        base=base if method in ASKING else None,
        public=public if method in MEASURED else None,
        prompts=PROMPTS if method in ASKING else None,
    )
    check_joining(contributions(family), METHODS[method], base, public, late, tmp_path, joiner=joiner)


@pytest.mark.parametrize(("method", "what"), [("lda-public", "public text"), ("prompts", "a base")])
def test_what_a_composite_does_not_hold_is_asked_for(
    method: str, what: str, tiny_base: Bases, contributions: Parts, public_text: Publics, tmp_path: Path
) -> None:
    ash, birch, cedar = contributions("olmo2")
    base, public = tiny_base("olmo2"), public_text("olmo2")
    compose([ash, birch], METHODS[method], base, public=public).save(tmp_path / "early")
    with pytest.raises(InvalidOption, match=f"without {what}"):
        joined_language(open_composite(tmp_path / "early"), [cedar])


def test_another_public_text_is_refused(
    tiny_base: Bases, contributions: Parts, public_text: Publics, tmp_path: Path
) -> None:
    ash, birch, cedar = contributions("olmo2")
    base, public = tiny_base("olmo2"), public_text("olmo2")
    compose([ash, birch], METHODS["evidence-ffn-tokens"], base, public=public).save(tmp_path / "early")
    early = open_composite(tmp_path / "early")
    tokens = public["tokens"]
    assert isinstance(tokens, TokenHistogram)
    with pytest.raises(InvalidOption, match="it is not what the model was composed with"):
        joined_language(early, [cedar], public={**public, "tokens": TokenHistogram(tokens.counts + 1)})
    joined_language(early, [cedar], public=public)


@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
def test_a_top_k_that_was_all_is_remembered(top_k: int, tiny_base: Bases, contributions: Parts, tmp_path: Path) -> None:
    method = MixtureOfExperts(LearnedRows(top_k=top_k))
    check_joining(contributions("olmo2"), method, tiny_base("olmo2"), {}, "birch", tmp_path)


def test_two_join_at_once_with_weights(
    tiny_base: Bases, contributions: Parts, public_text: Publics, tmp_path: Path
) -> None:
    ash, birch, cedar = contributions("llama")
    base, public = tiny_base("llama"), public_text("llama")
    method = MixtureOfExperts(PrefixEvidence(), weights={"base": 2.0, "ash": 3.0, "cedar": 0.5})
    compose([ash, birch, cedar], method, base, public=public).save(tmp_path / "whole")
    alone = replace(method, weights={"base": 2.0})
    compose([birch], alone, base, public=public).save(tmp_path / "early")
    late = joined_language(open_composite(tmp_path / "early"), [cedar, ash], weights={"ash": 3.0, "cedar": 0.5})
    late.save(tmp_path / "late")
    assert_same_files(tmp_path / "late", tmp_path / "whole")


STEPS = st.lists(st.tuples(st.booleans(), st.sampled_from(("ash", "birch", "cedar"))), min_size=2, max_size=6)


@pytest.mark.parametrize(
    ("name", "layout"), [("rows", "portable"), ("rows-bias", "native"), ("evidence-ffn", "native")]
)
def test_any_chain_of_joining_and_leaving_ends_where_composing_does(
    name: str, layout: str, tiny_base: Bases, contributions: Parts, public_text: Publics, tmp_path_factory: object
) -> None:
    parts = {c.party: c for c in contributions("olmo2")}
    base, public = tiny_base("olmo2"), public_text("olmo2")

    @settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
    @given(steps=STEPS)
    def chain(steps: list[tuple[bool, str]]) -> None:
        place = tmp_path_factory.mktemp("chain")  # type: ignore[attr-defined]
        present = {"birch"}
        compose([parts["birch"]], METHODS[name], base, public=public).save(place / "0", layout=layout)  # type: ignore[arg-type]
        for number, (joins, party) in enumerate(steps):
            found = open_composite(place / str(number))
            if joins and party not in present:
                found, present = joined_language(found, [parts[party]]), present | {party}
            elif not joins and party in present and len(present) > 1:
                found, present = found.without(party), present - {party}
            found.save(place / str(number + 1), layout=layout)  # type: ignore[arg-type]
        fresh = compose([parts[p] for p in sorted(present)], METHODS[name], base, public=public)
        fresh.save(place / "fresh", layout=layout)  # type: ignore[arg-type]
        assert_same_files(place / str(len(steps)), place / "fresh")

    chain()


def test_files_of_those_who_stay_are_the_same_files(
    tiny_base: Bases, contributions: Parts, public_text: Publics, tmp_path: Path
) -> None:
    ash, birch, cedar = contributions("olmo2")
    base, public = tiny_base("olmo2"), public_text("olmo2")
    compose([ash, cedar], METHODS["evidence-ffn"], base, public=public).save(tmp_path / "two")
    joined_language(open_composite(tmp_path / "two"), [birch]).save(tmp_path / "three")
    open_composite(tmp_path / "three").without("ash").save(tmp_path / "rest")
    for name, shared in (("shared", True), ("expert-cedar", True), ("router", False)):
        for later in ("three", "rest"):
            one, other = tmp_path / "two" / f"{name}.safetensors", tmp_path / later / f"{name}.safetensors"
            # a file system that clones gives blocks in common and no link
            assert shared >= os.path.samefile(one, other)
            assert (one.read_bytes() == other.read_bytes()) == shared


def test_the_check_refuses_a_joiner_that_forgets_an_option(
    tiny_base: Bases, contributions: Parts, tmp_path: Path
) -> None:
    def forgetful(found: Composite, late: Sequence[Contribution]) -> Composite:
        assert found.provenance.options is not None
        options = {**found.provenance.options, "router": {"top_k": None, "renormalise": True, "bias": False}}
        return joined_language(replace(found, provenance=replace(found.provenance, options=options)), late)

    method = MixtureOfExperts(LearnedRows(top_k=2))
    with pytest.raises(AssertionError, match=r"config\.json"):
        check_joining(contributions("llama"), method, tiny_base("llama"), {}, "ash", tmp_path, joiner=forgetful)
