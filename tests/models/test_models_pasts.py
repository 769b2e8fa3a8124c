"""A member that sequences visit now and then, against whole passes over each text."""

from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from quiltwork.models.native.pasts import MemberPast
from quiltwork.models.tiny import TinySize, tiny_model

SIZE = TinySize(vocabulary=50, hidden=16, intermediate=24, layers=2, heads=2, positions=64)


@pytest.fixture(scope="module")
def member() -> PreTrainedModel:
    return tiny_model("llama", SIZE, seed=0, tie=False).eval()


def grown(texts: list[Tensor], lengths: list[int], rng: random.Random) -> list[Tensor]:
    return [
        torch.cat([text, torch.tensor([rng.randrange(50) for _ in range(length)], dtype=torch.int64)])
        for text, length in zip(texts, lengths, strict=True)
    ]


def whole_pass(member: PreTrainedModel, text: Tensor) -> Tensor:
    return member(input_ids=text[None]).logits[0]  # type: ignore[no-any-return]


@pytest.mark.parametrize("seed", range(8))
@torch.no_grad()
def test_visits_give_what_whole_passes_give(seed: int, member: PreTrainedModel) -> None:
    rng = random.Random(seed)
    past, texts = MemberPast(member.config), grown([torch.zeros(0, dtype=torch.int64)] * 4, [3, 3, 5, 1], rng)
    seen = [0] * 4
    for _ in range(6):
        rows = [row for row in range(len(texts)) if rng.random() < 0.6]
        found = past.run(member, texts, rows, 0)
        assert sorted(found) == rows
        for row in rows:
            due = whole_pass(member, texts[row])[seen[row] :]
            torch.testing.assert_close(found[row], due, atol=1e-5, rtol=0)
            seen[row] = len(texts[row])
        if rng.random() < 0.5:
            indices = [rng.randrange(len(texts)) for _ in range(4)]
            past, texts, seen = past.select(indices), [texts[i] for i in indices], [seen[i] for i in indices]
        texts = grown(texts, [rng.choice((1, 1, 2))] * 4, rng)


@torch.no_grad()
def test_another_s_past_would_show(member: PreTrainedModel) -> None:
    rng = random.Random(0)
    texts = grown([torch.zeros(0, dtype=torch.int64)] * 2, [4, 4], rng)
    past = MemberPast(member.config)
    past.run(member, texts, [0, 1], 0)
    crossed = past.select([1, 0])
    texts = grown(texts, [1, 1], rng)
    found = crossed.run(member, texts, [0], 0)[0]
    assert not torch.allclose(found, whole_pass(member, texts[0])[-1:], atol=1e-3)


@torch.no_grad()
def test_only_the_last_tokens_are_predicted_after_where_no_more_is_asked(member: PreTrainedModel) -> None:
    texts = grown([torch.zeros(0, dtype=torch.int64)] * 2, [6, 6], random.Random(1))
    found = MemberPast(member.config).run(member, texts, [0, 1], 2)
    for row in (0, 1):
        torch.testing.assert_close(found[row], whole_pass(member, texts[row])[-2:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_sequences_that_stay_together_run_together_and_are_not_copied(
    member: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    forward = member.forward
    monkeypatch.setattr(member, "forward", lambda **given: batches.append(len(given["input_ids"])) or forward(**given))
    rng, past = random.Random(2), MemberPast(member.config)
    texts = grown([torch.zeros(0, dtype=torch.int64)] * 3, [4, 4, 4], rng)
    caches = []
    for _ in range(3):
        past.run(member, texts, [0, 1, 2], 1)
        caches.append([id(block.cache) for block in past._blocks])
        texts = grown(texts, [1, 1, 1], rng)
    assert batches == [3, 3, 3]
    assert caches == [caches[0]] * 3
    # one leaves for a step and comes back: it runs by itself, until it has caught up
    past.run(member, texts, [0, 2], 1)
    texts = grown(texts, [1, 1, 1], rng)
    past.run(member, texts, [0, 1, 2], 1)
    texts = grown(texts, [1, 1, 1], rng)
    past.run(member, texts, [0, 1, 2], 1)
    assert batches[3:] == [2, 2, 1, 3]
