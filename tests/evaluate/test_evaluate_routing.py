"""Shares by position and document, and their balance, against counts by hand and models of transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from quiltwork.compose.method import compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_both import RowsAndEvidence
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.contribution.sealed import Contribution
from quiltwork.evaluate.bits_per_byte import score, windows
from quiltwork.evaluate.matrix import HeldOut, run
from quiltwork.evaluate.routing import STARTS, Tally, balance, document_shares, own_slots, routing
from quiltwork.evaluate.trace import Trace, routers
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.base import Base

LENGTH = 80
TEXTS = [
    " ".join(["the ferry crosses before noon over grey stones"] * 8),
    "def return yield import class lambda raise except finally while",
    " ".join(["plaintiff court appeal"] * 3),
]
SLOTS = ("base", "ash", "birch", "cedar")


def tallies(model: Any, base: Base, texts: list[str] = TEXTS, batch_size: int = 2) -> list[Tally]:
    with Trace(model) as trace:
        score(
            model,
            base.load_tokenizer(),
            texts,
            prefix=5,
            max_length=LENGTH,
            batch_size=batch_size,
            on_batch=trace.begin_batch,
        )
    return trace.tallies()


def pieces(base: Base) -> list[tuple[int, list[int]]]:
    tokenizer: Any = base.load_tokenizer()
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
    return [(n, list(w.ids)) for n, document in enumerate(ids) for w in windows(document, 5, LENGTH)]


@pytest.fixture(scope="module")
def evident(
    tiny_base: Callable[[str], Base],
    contributions: Callable[[str], list[Contribution]],
    public_text: Callable[[str], Mapping[str, TokenHistogram]],
) -> Any:
    method = MixtureOfExperts(PrefixEvidence(half_life=30.0))
    return compose(contributions("llama"), method, tiny_base("llama"), public=public_text("llama")).model()


def test_positions_and_documents_are_those_of_each_text(evident: Any, tiny_base: Callable[[str], Base]) -> None:
    base = tiny_base("llama")
    (tally,) = tallies(evident, base)
    by_span: list[list[np.ndarray]] = [[] for _ in STARTS]
    by_document: dict[int, list[np.ndarray]] = {}
    for document, ids in pieces(base):
        weights = evident.evidence(torch.tensor([ids]), None, None)[0][0].double().numpy()
        by_document.setdefault(document, []).append(weights)
        for position, row in enumerate(weights):
            by_span[sum(position >= start for start in STARTS) - 1].append(row)
    assert tally.tokens.tolist() == [len(rows) for rows in by_span]
    assert all(len(rows) for rows in by_span[:3])
    found = routing(SLOTS, [tally])
    assert [span.start for span in found.spans] == [0, 16, 64]
    for span, rows in zip(found.spans, by_span, strict=False):
        np.testing.assert_allclose(span.shares, np.mean(rows, axis=0), atol=1e-6)
        first = np.bincount([row.argmax() for row in rows], minlength=4) / len(rows)
        np.testing.assert_allclose(span.firsts, first, atol=1e-6)
    expected = [np.concatenate(by_document[n]).mean(axis=0) for n in range(3)]
    np.testing.assert_allclose(document_shares([tally], 4), expected, atol=1e-6)


def test_padding_has_no_position(evident: Any, tiny_base: Callable[[str], Base]) -> None:
    one, together = (tallies(evident, tiny_base("llama"), batch_size=n)[0] for n in (1, 8))
    np.testing.assert_allclose(one.weights, together.weights, atol=1e-5)
    assert one.tokens.tolist() == together.tokens.tolist()


@pytest.mark.parametrize("family", ["llama", "olmo2"])
def test_portable_models_are_watched_too(
    family: str, tiny_base: Callable[[str], Base], contributions: Callable[[str], list[Contribution]], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    base = tiny_base(family)
    composite = compose(contributions(family), MixtureOfExperts(LearnedRows(top_k=2)), base)
    composite.save(tmp_path / "portable", layout="portable")
    portable = AutoModelForCausalLM.from_pretrained(tmp_path / "portable")
    assert [type(m).__name__ for m in routers(portable)] == [
        {"llama": "MixtralTopKRouter", "olmo2": "FlexOlmoTopKRouter"}[family]
    ] * base.layers
    native, other = (tallies(model, base) for model in (composite.model(), portable.eval()))
    for one, two in zip(native, other, strict=True):
        np.testing.assert_allclose(one.weights, two.weights, atol=1e-3)
        np.testing.assert_allclose(two.weights.sum(axis=1), two.tokens, rtol=1e-5)
        assert two.tokens.sum() == sum(len(ids) for _, ids in pieces(base))


def test_balance_is_that_of_the_formulas() -> None:
    p = np.array([0.5, 0.3, 0.2, 0.0])
    found = balance(p.tolist())
    assert found.cv == pytest.approx(p.std() / p.mean())
    assert found.max_over_mean == pytest.approx(2.0)
    assert found.entropy == pytest.approx(-(0.5 * np.log(0.5) + 0.3 * np.log(0.3) + 0.2 * np.log(0.2)) / np.log(4))
    assert balance([0.2] * 4) == pytest.approx((0.0, 1.0, 1.0))
    assert balance([0.0, 0.0, 3.0]) == pytest.approx((np.sqrt(2), 3.0, 0.0))


def test_a_base_of_several_experts_is_one_slot_and_an_owner_of_several_counts_whole() -> None:
    tally = Tally(5)
    tally.add(np.full((1, 3, 5), 0.2), np.ones((1, 3), dtype=bool), [0])
    found = routing(("base", "ash.one", "ash.two", "oak"), [tally])
    assert found.layers[0] == pytest.approx((0.4, 0.2, 0.2, 0.2))
    assert own_slots(found.slots, "ash") == [1, 2]
    assert own_slots(found.slots, "oak") == [3]
    assert own_slots(found.slots, "wiki") == own_slots(found.slots, "base") == [0]


def test_equals_share_the_first_place() -> None:
    tally = Tally(2)
    tally.add(np.array([[[0.5, 0.5], [0.9, 0.1]]]), np.array([[True, True]]))
    assert tally.firsts[0].tolist() == [1.5, 0.5]


def test_the_matrix_keeps_what_was_counted(evident: Any, tiny_base: Callable[[str], Base]) -> None:
    base = tiny_base("llama")
    held_out = HeldOut({"ash": TEXTS[:1], "web": TEXTS[1:]}, ("ash",), max_length=LENGTH)
    found = run(evident, base.load_tokenizer(), held_out, prefix=5, slots=SLOTS)
    for domain, slot in (("ash", "ash"), ("web", "base")):
        mean = found.routing[domain].mean()
        cell = found.row.domains[domain]
        assert cell.extra["routing_own"] == pytest.approx(mean[slot])
        assert cell.extra["routing_entropy"] == pytest.approx(balance(list(mean.values())).entropy)
        spans = found.routing[domain].spans
        total = sum(span.tokens * np.array(span.shares) for span in spans) / sum(span.tokens for span in spans)
        np.testing.assert_allclose(total, list(mean.values()), atol=1e-9)


def test_rows_and_evidence_are_watched_where_they_meet(
    tiny_base: Callable[[str], Base],
    contributions: Callable[[str], list[Contribution]],
    public_text: Callable[[str], Mapping[str, TokenHistogram]],
) -> None:
    base = tiny_base("llama")
    method = MixtureOfExperts(RowsAndEvidence(LearnedRows(top_k=2), PrefixEvidence()))
    model = compose(contributions("llama"), method, base, public=public_text("llama")).model()
    assert routers(model) == [layer.mlp.router for layer in model.body.model.layers]
    found = tallies(model, base)
    assert [tally.weights.shape for tally in found] == [(4, 4)] * base.layers
    assert all(tally.weights.sum() == pytest.approx(tally.tokens.sum(), rel=1e-5) for tally in found)
