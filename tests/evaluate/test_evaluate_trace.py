"""Routing shares and active parameters against counts by other means."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from quiltwork.compose.alone import Alone
from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import Method, compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.contribution.sealed import Contribution
from quiltwork.evaluate.bits_per_byte import score, windows
from quiltwork.evaluate.trace import Trace, routers, token_texts
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.base import Base

FAMILY, LENGTH = "llama", 16
TEXTS = [
    "the ferry crosses before noon over grey stones",
    "def return yield import class lambda raise except finally while def return",
    "plaintiff court appeal",
]

Build = Callable[[Method], Any]


@pytest.fixture(scope="module")
def base(tiny_base: Callable[[str], Base]) -> Base:
    return tiny_base(FAMILY)


@pytest.fixture(scope="module")
def tokenizer(base: Base) -> Any:
    return base.load_tokenizer()


@pytest.fixture(scope="module")
def build(
    base: Base,
    contributions: Callable[[str], list[Contribution]],
    public_text: Callable[[str], Mapping[str, TokenHistogram]],
) -> Build:
    return lambda method: compose(contributions(FAMILY), method, base, public=public_text(FAMILY)).model()


def traced(model: Any, base: Base, texts: list[str] = TEXTS, batch_size: int = 2, prefix: int = 0) -> Trace:
    with Trace(model) as trace:
        score(
            model,
            base.load_tokenizer(),
            texts,
            prefix=prefix,
            max_length=LENGTH,
            batch_size=batch_size,
            on_batch=trace.begin_batch,
        )
    return trace


def shares(trace: Trace) -> tuple[tuple[float, ...], ...]:
    return tuple(tally.shares() for tally in trace.tallies())


def inputs(base: Base, texts: list[str] = TEXTS, prefix: int = 0) -> list[list[int]]:
    """What is put in, window by window."""
    tokenizer: Any = base.load_tokenizer()
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    return [list(w.ids) for document in ids for w in windows(document, prefix, LENGTH)]


def size(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# shares ---------------------------------------------------------------


def test_shares_of_learned_rows_are_a_softmax_over_rows(build: Build, base: Base) -> None:
    model = build(MixtureOfExperts(LearnedRows(top_k=2)))
    # a tiny base embeds token 0 as zero, where all rows tie
    found = shares(traced(model, base, prefix=5))
    expected = []
    for layer in model.body.model.layers:
        rows: list[np.ndarray] = []
        hook = layer.mlp.register_forward_pre_hook(lambda _, x, rows=rows: rows.append(x[0][0].detach().numpy()))
        for ids in inputs(base, prefix=5):
            model(input_ids=torch.tensor([ids]))
        hook.remove()
        logits = np.concatenate(rows).astype(np.float64) @ layer.mlp.router.weight.detach().numpy().T
        weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        weights[weights < np.sort(weights, axis=1)[:, -2:-1]] = 0
        expected.append((weights / weights.sum(axis=1, keepdims=True)).mean(axis=0))
    assert len(found) == base.layers
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.sum(found, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("scope", ["ffn", "full"])
def test_shares_of_evidence_are_the_posterior_of_each_text(build: Build, base: Base, scope: Any) -> None:
    model = build(MixtureOfExperts(PrefixEvidence(half_life=8.0), scope=scope))
    found = shares(traced(model, base))
    weights = [model.evidence(torch.tensor([ids]), None, None)[0][0] for ids in inputs(base)]
    assert len(found) == 1
    np.testing.assert_allclose(found[0], torch.cat(weights).double().mean(dim=0), atol=1e-6)


def test_shares_of_ensembles(build: Build, base: Base) -> None:
    (uniform,) = shares(traced(build(Ensemble("uniform")), base))
    assert uniform == pytest.approx([0.25] * 4)
    model = build(Ensemble("likelihood"))
    (found,) = shares(traced(model, base))
    total = np.zeros(4)
    for ids in inputs(base):
        sequence = torch.tensor([ids])
        answers = torch.stack(
            [member(input_ids=sequence).logits[0].double().log_softmax(-1) for member in model.members.values()]
        )
        gained = torch.zeros(4, len(ids), dtype=torch.float64)
        gained[:, 1:] = answers[:, torch.arange(len(ids) - 1), sequence[0, 1:]].cumsum(dim=1)
        total += gained.softmax(dim=0).sum(dim=1).detach().numpy()
    np.testing.assert_allclose(found, total / sum(map(len, inputs(base))), atol=1e-4)


def test_padding_counts_for_nothing(build: Build, base: Base) -> None:
    for method in (MixtureOfExperts(LearnedRows()), MixtureOfExperts(PrefixEvidence())):
        model = build(method)
        alone, together = (shares(traced(model, base, batch_size=n)) for n in (1, 8))
        np.testing.assert_allclose(alone, together, atol=1e-5)


def test_negative_control_another_text_has_other_shares(build: Build, base: Base) -> None:
    model = build(MixtureOfExperts(PrefixEvidence()))
    one, other = (np.array(shares(traced(model, base, [text]))) for text in TEXTS[:2])
    assert np.abs(one - other).max() > 0.1
    assert one[0].argmax() == 1  # slots: base, ash, birch, cedar
    assert other[0].argmax() == 2


def test_asking_for_shares_starts_the_count_again(build: Build, base: Base) -> None:
    model = build(MixtureOfExperts(PrefixEvidence()))
    tokenizer = base.load_tokenizer()
    rows = []
    with Trace(model) as trace:
        for text in (TEXTS[0], TEXTS[1], TEXTS[0]):
            score(model, tokenizer, [text], prefix=0, max_length=LENGTH, on_batch=trace.begin_batch)
            rows.append(shares(trace))
    assert rows[0] == rows[2] != rows[1]
    assert trace.tallies() == []


def test_a_dense_model_has_no_shares(base: Base) -> None:
    assert traced(base.load_model(), base).tallies() == []
    assert routers(base.load_model()) == []


# active parameters ----------------------------------------------------


def test_all_of_a_dense_model_is_active(build: Build, base: Base, contributions: Any) -> None:
    model = base.load_model()
    assert traced(model, base).active_parameters() == size(model)
    (first, *_) = contributions(FAMILY)
    alone = compose([first], Alone(), base).model()
    assert traced(alone, base).active_parameters() == size(model)


@pytest.mark.parametrize(("top_k", "answering"), [(1, 1), (2, 2), (None, 4)])
def test_learned_rows_run_k_experts_a_layer(build: Build, base: Base, top_k: int | None, answering: int) -> None:
    model = build(MixtureOfExperts(LearnedRows(top_k=top_k)))
    ffn = 3 * base.hidden_size * base.intermediate_size
    rows = base.layers * 4 * base.hidden_size
    dense = size(base.load_model())
    assert size(model) == dense + 3 * base.layers * ffn + rows
    expected = dense + (answering - 1) * base.layers * ffn + rows
    assert traced(model, base).active_parameters() == pytest.approx(expected)


@pytest.mark.parametrize("top_k", [1, 2, None])
def test_plain_transformers_runs_as_much_as_the_composite(
    top_k: int | None, base: Base, contributions: Any, tmp_path: Path
) -> None:
    composite = compose(contributions(FAMILY), MixtureOfExperts(LearnedRows(top_k=top_k)), base)
    composite.save(tmp_path / "portable", layout="portable")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "portable").eval()
    active = traced(plain, base).active_parameters()
    assert active == pytest.approx(traced(composite.model(), base).active_parameters())
    assert (active < size(plain)) is (top_k is not None)


def test_evidence_that_selects_one_expert_is_as_large_as_the_base(build: Build, base: Base) -> None:
    model = build(MixtureOfExperts(PrefixEvidence(top_k=1)))
    assert traced(model, base).active_parameters() == pytest.approx(size(base.load_model()))


def test_evidence_that_mixes_runs_the_experts_above_the_minimum(build: Build, base: Base) -> None:
    model = build(MixtureOfExperts(PrefixEvidence(minimum_weight=0.05)))
    answered = sum(int((model.evidence(torch.tensor([ids]), None, None)[0] > 0).sum()) for ids in inputs(base))
    put_in = sum(map(len, inputs(base)))
    ffn = 3 * base.hidden_size * base.intermediate_size
    expected = size(base.load_model()) + (answered / put_in - 1) * base.layers * ffn
    assert put_in < answered < 4 * put_in
    assert traced(model, base, batch_size=1).active_parameters() == pytest.approx(expected)


def test_every_member_of_an_ensemble_by_likelihood_is_active(build: Build, base: Base) -> None:
    for method in (Ensemble("uniform"), Ensemble("likelihood", top_k=1)):
        model = build(method)
        assert traced(model, base).active_parameters() == size(model) == 4 * size(base.load_model())


def test_selected_members_count_by_the_tokens_they_read(build: Build, base: Base) -> None:
    """A member reads a text up to the last token that it answers, and no further."""
    model = build(MixtureOfExperts(PrefixEvidence(), scope="full"))
    read = 0
    for ids in inputs(base):
        chosen = model.evidence(torch.tensor([ids]), None, None)[0][0] > 0
        assert bool((chosen.sum(dim=1) == 1).all())
        for member in range(4):
            places = chosen[:, member].nonzero()
            read += int(places.max()) + 1 if len(places) else 0
    put_in = sum(map(len, inputs(base)))
    expected = size(base.load_model()) * read / put_in
    assert put_in <= read < 4 * put_in
    assert traced(model, base, batch_size=1).active_parameters() == pytest.approx(expected)


def test_nothing_stays_on_the_model(build: Build, base: Base) -> None:
    model = build(MixtureOfExperts(PrefixEvidence()))
    traced(model, base)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    trace = Trace(model)
    with pytest.raises(KeyError), trace:
        raise KeyError("gone")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_last_pass_can_be_looked_at(build: Build, base: Base) -> None:
    model = build(MixtureOfExperts(LearnedRows()))
    with Trace(model) as trace:
        trace.begin_batch(torch.ones(2, 5, dtype=torch.long), [0, 1])
        model(input_ids=torch.ones(2, 5, dtype=torch.long))
    assert [tuple(w.shape) for w in trace.weights] == [(2, 5, 4)] * base.layers
    assert all(torch.allclose(w.sum(-1), torch.ones(2, 5), atol=1e-5) for w in trace.weights)


# texts of tokens ------------------------------------------------------


@given(st.text(max_size=20))
@settings(max_examples=60, deadline=None)
@example("naïve 東京 🜚\ufffd\ufffd and \ufffd, \t double  space . ")
def test_the_pieces_of_a_text_make_the_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = token_texts(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == text


def test_negative_control_tokens_decoded_one_by_one_do_not(tokenizer: Any) -> None:
    ids = tokenizer.encode("東京", add_special_tokens=False)
    assert "".join(tokenizer.decode([i]) for i in ids) != "東京" == "".join(token_texts(tokenizer, ids))
