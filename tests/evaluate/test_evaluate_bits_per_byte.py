"""Bits per byte against lm-evaluation-harness, and against one forward pass a token."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.compose.ensemble import Ensemble
from quiltwork.compose.method import Method, compose
from quiltwork.compose.mixture import MixtureOfExperts
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.evaluate.bits_per_byte import Score, Window, score, windows
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.models.base import Base

Bases = Callable[[str], Base]

LENGTH = 12
PREFIX = 0
DOCUMENTS = [
    "the river runs over grey stones",
    "",
    "x",
    "plaintiff court appeal statute counsel verdict damages clause tort bail. " * 4,
    "naïve café – 東京 🜚 and the ferry, twice: naïve café – 東京 🜚",
    "def return yield import class lambda raise except finally while 17 18 19",
]


def lively(base: Base) -> Any:
    """The untrained base with a head so large that its predictions depend on what it has read."""
    model = base.load_model()
    head: Any = model.get_output_embeddings()
    with torch.no_grad():
        head.weight.mul_(30.0)
    return model


@pytest.fixture(scope="module")
def base(tiny_base: Bases) -> Base:
    return tiny_base("llama")


@pytest.fixture(scope="module")
def model(base: Base) -> Any:
    return lively(base)


@pytest.fixture(scope="module")
def tokenizer(base: Base) -> Any:
    return base.load_tokenizer()


def encoded(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts if text]


def measured(model: Any, tokenizer: Any, texts: list[str], **changes: Any) -> Score:
    return score(model, tokenizer, texts, **{"prefix": PREFIX, "max_length": LENGTH, **changes})


def by_hand(model: Any, ids: list[int], length: int) -> float:
    """Nats of one document: token j reads what its window holds before it, in a pass of its own."""
    stream, total = [PREFIX, *ids], 0.0
    for j, token in enumerate(ids):
        end = min((j // length + 1) * length, len(ids))
        context = stream[max(0, end - length) : j + 1]
        logits = model(input_ids=torch.tensor([context])).logits[0, -1].detach().double()
        total -= float(logits.log_softmax(-1)[token])
    return total


def by_harness(model: Any, tokenizer: Any, texts: list[str], length: int, batch_size: int) -> tuple[float, list[float]]:
    """The corpus figure, and the log-likelihood of each document."""
    from lm_eval.api.instance import Instance
    from lm_eval.api.metrics import bits_per_byte
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", max_length=length, batch_size=batch_size)
    assert harness.prefix_token_id == PREFIX
    requests: Any = [
        Instance(request_type="loglikelihood_rolling", doc={}, arguments=(text,), idx=i) for i, text in enumerate(texts)
    ]
    found = harness.loglikelihood_rolling(requests, disable_tqdm=True)
    return bits_per_byte([(ll, len(t.encode())) for ll, t in zip(found, texts, strict=True)]), found


# the figure -----------------------------------------------------------


def test_the_documents_are_shorter_and_longer_than_a_window(tokenizer: Any) -> None:
    lengths = [len(ids) for ids in encoded(tokenizer, DOCUMENTS)]
    assert min(lengths) < LENGTH < max(lengths)
    assert max(lengths) > 2 * LENGTH


def test_it_is_one_pass_a_token(model: Any, tokenizer: Any) -> None:
    found = measured(model, tokenizer, DOCUMENTS)
    nats = sum(by_hand(model, ids, LENGTH) for ids in encoded(tokenizer, DOCUMENTS))
    assert found.nats == pytest.approx(nats, rel=1e-6)
    size = sum(len(text.encode()) for text in DOCUMENTS)
    assert (found.bytes, found.documents) == (size, 5)
    assert found.tokens == sum(map(len, encoded(tokenizer, DOCUMENTS)))
    assert found.bits_per_byte == pytest.approx(nats / math.log(2) / size, rel=1e-6)
    # negative controls: another window or prefix is another figure
    assert found.nats != pytest.approx(measured(model, tokenizer, DOCUMENTS, max_length=LENGTH + 1).nats, rel=1e-4)
    assert found.nats != pytest.approx(measured(model, tokenizer, DOCUMENTS, prefix=7).nats, rel=1e-4)


@pytest.mark.parametrize(("length", "batch_size"), [(LENGTH, 1), (LENGTH, 4), (100, 3)])
def test_it_is_the_figure_of_lm_evaluation_harness(model: Any, tokenizer: Any, length: int, batch_size: int) -> None:
    texts = [text for text in DOCUMENTS if text]
    expected, each = by_harness(model, tokenizer, texts, length, batch_size)
    found = measured(model, tokenizer, DOCUMENTS, max_length=length)
    assert found.bits_per_byte == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(found.document_nats, -np.array(each), rtol=1e-6)
    assert found.document_bytes == tuple(len(text.encode()) for text in texts)
    for text, likelihood in zip(texts, each, strict=True):
        assert measured(model, tokenizer, [text], max_length=length).nats == pytest.approx(-likelihood, rel=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        MixtureOfExperts(PrefixEvidence()),
        MixtureOfExperts(LearnedRows(top_k=2)),
        MixtureOfExperts(PrefixEvidence(), scope="full"),
        Ensemble("likelihood"),
    ],
    ids=lambda method: method.name,
)
def test_compositions_score_as_the_harness_would_score_them(
    method: Method,
    base: Base,
    tokenizer: Any,
    contributions: Callable[[str], list[Contribution]],
    public_text: Callable[[str], Mapping[str, TokenHistogram]],
) -> None:
    composed = compose(contributions("llama"), method, base, public=public_text("llama")).model()
    texts = [text for text in DOCUMENTS if text]
    expected, _ = by_harness(composed, tokenizer, texts, LENGTH, batch_size=4)
    found = measured(composed, tokenizer, texts)
    assert found.bits_per_byte == pytest.approx(expected, rel=1e-6)
    assert found.nats == pytest.approx(
        sum(by_hand(composed, ids, LENGTH) for ids in encoded(tokenizer, texts[:1]))
        + measured(composed, tokenizer, texts[1:]).nats,
        rel=1e-6,
    )


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_batches_and_padding_change_nothing(model: Any, tokenizer: Any, batch_size: int) -> None:
    one = measured(model, tokenizer, DOCUMENTS, batch_size=1)
    other = measured(model, tokenizer, DOCUMENTS[::-1], batch_size=batch_size)
    assert other.nats == pytest.approx(one.nats, rel=1e-6)
    assert (other.bytes, other.documents, other.tokens) == (one.bytes, one.documents, one.tokens)


def test_longer_documents_weigh_more(model: Any, tokenizer: Any) -> None:
    parts = [measured(model, tokenizer, [text]) for text in DOCUMENTS if text]
    both = measured(model, tokenizer, DOCUMENTS)
    assert both.nats == pytest.approx(math.fsum(part.nats for part in parts), rel=1e-6)
    pooled = math.fsum(part.nats for part in parts) / math.log(2) / sum(part.bytes for part in parts)
    assert both.bits_per_byte == pytest.approx(pooled, rel=1e-6)
    assert both.bits_per_byte != pytest.approx(math.fsum(p.bits_per_byte for p in parts) / len(parts), rel=1e-3)


def test_a_shift_of_all_logits_changes_nothing(model: Any, tokenizer: Any) -> None:
    plain = measured(model, tokenizer, DOCUMENTS).nats

    def shifted(_: Any, __: Any, output: Any) -> Any:
        output.logits = output.logits + 5.0
        return output

    hook = model.register_forward_hook(shifted)
    try:
        assert measured(model, tokenizer, DOCUMENTS).nats == pytest.approx(plain, rel=1e-5)
    finally:
        hook.remove()


@pytest.mark.parametrize("texts", [[], [""], ["", ""]])
def test_no_text_is_refused(model: Any, tokenizer: Any, texts: list[str]) -> None:
    with pytest.raises(InvalidOption, match=r"an empty set of documents: bits per byte divides by their bytes\. Give"):
        measured(model, tokenizer, texts)


def test_a_batch_is_announced_before_it_runs(model: Any, tokenizer: Any) -> None:
    announced: list[tuple[int, int, tuple[int, ...]]] = []
    ran: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(
        lambda _, __, inputs: ran.append(tuple(inputs["input_ids"].shape)), with_kwargs=True
    )

    def on_batch(mask: torch.Tensor, numbers: Sequence[int]) -> None:
        assert len(ran) == len(announced)
        announced.append((int(mask.sum()), len(numbers), tuple(mask.shape)))

    measured(model, tokenizer, DOCUMENTS, batch_size=3, on_batch=on_batch)
    hook.remove()
    pieces = [w for ids in encoded(tokenizer, DOCUMENTS) for w in windows(ids, PREFIX, LENGTH)]
    assert [shape for _, _, shape in announced] == ran
    assert sum(real for real, _, _ in announced) == sum(len(window.ids) for window in pieces)
    assert sum(count for _, count, _ in announced) == len(pieces)


# windows --------------------------------------------------------------

texts_of_tokens = st.lists(st.integers(1, 99), max_size=60)


def check(ids: list[int], length: int, cut: Callable[[list[int], int, int], Any]) -> list[Window]:
    """Every token is scored once, from what stands before it, with at most ``length`` tokens put in."""
    stream, pieces = [PREFIX, *ids], list(cut(ids, PREFIX, length))
    assert [t for w in pieces for t in w.targets[len(w.targets) - w.scored :]] == ids
    end = 0
    for window in pieces:
        end += window.scored
        assert 1 <= window.scored <= len(window.targets) == len(window.ids) <= length
        assert list(window.targets) == stream[end + 1 - len(window.targets) : end + 1]
        assert list(window.ids) == stream[end - len(window.ids) : end]
    return pieces


@given(texts_of_tokens, st.integers(1, 20))
def test_every_token_is_scored_once_from_what_stands_before_it(ids: list[int], length: int) -> None:
    pieces = check(ids, length, windows)
    assert len(pieces) == -(-len(ids) // length)
    assert all(len(window.ids) == length for window in pieces[1:])  # as much context as fits
    assert all(window.scored == length for window in pieces[:-1])


@pytest.mark.parametrize(
    "broken",
    [
        lambda ids, prefix, n: [Window(ids[:n], ids[:n], len(ids[:n]))],  # each token sees itself
        lambda ids, prefix, n: list(windows(ids, prefix, n))[:-1],  # the tail is dropped
        lambda ids, prefix, n: [Window(w.ids, w.targets, len(w.targets)) for w in windows(ids, prefix, n)],  # twice
        lambda ids, prefix, n: windows(ids, prefix, n + 1),  # too long
    ],
)
def test_negative_control_broken_windows_fail_the_check(broken: Any) -> None:
    ids = list(range(1, 30))
    check(ids, 12, windows)
    with pytest.raises(AssertionError):
        check(ids, 12, broken)
