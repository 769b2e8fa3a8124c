"""Documents that change domain half-way, and documents of two domains in turns.

A text of 2n tokens whose first n are from a held-out document of domain a and whose last n from one of domain b asks a
router to forget: everything that it has summed up speaks for a. Losses are taken apart by place:

    before      the n tokens of a
    0-15 ...    so many tokens after the change
    after       the n tokens of b

Mixed documents take turns of 24 tokens. Losses are in bits a token (the tokenizer is the same for all rows), mean over
all ordered pairs (a, next domain in the list) and some documents a pair. The oracle answers each half with the dense
expert (for public domains the base) of the domain that the half is from: what knowing the author would give.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

HALF = 128
TURN = 24
Text = tuple[str, str, list[int]]
"""First domain, second domain, tokens."""

PLACES = {"before": (0, HALF), "0-15": (HALF, HALF + 16), "16-47": (HALF + 16, HALF + 48), "after": (HALF, 2 * HALF)}


def pieces(texts: Sequence[str], tokenizer: Any, length: int, count: int, seed: int) -> list[list[int]]:
    """``count`` runs of ``length`` tokens from the beginnings of different documents."""
    ids = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    long = [document[:length] for document in ids if len(document) >= length]
    random.Random(seed).shuffle(long)
    return long[:count]


def changing(held_out: Mapping[str, Sequence[str]], tokenizer: Any, count: int, seed: int) -> list[Text]:
    """(a, b, 2n tokens): first a, then b."""
    names = list(held_out)
    cut = {name: pieces(held_out[name], tokenizer, HALF, count, seed) for name in names}
    following = {name: names[(i + 1) % len(names)] for i, name in enumerate(names)}
    return [(a, b, one + two) for a, b in following.items() for one, two in zip(cut[a], cut[b], strict=False)]


def mixed(held_out: Mapping[str, Sequence[str]], tokenizer: Any, count: int, seed: int) -> list[Text]:
    """(a, b, 2n tokens): a and b in turns of ``TURN`` tokens."""
    return [(a, b, _in_turns(ids[:HALF], ids[HALF:])) for a, b, ids in changing(held_out, tokenizer, count, seed)]


def _in_turns(one: list[int], two: list[int]) -> list[int]:
    result: list[int] = []
    for start in range(0, HALF, TURN):
        result += one[start : start + TURN] + two[start : start + TURN]
    return result


def from_second(length: int) -> list[bool]:
    """Which tokens of a mixed document are from its second domain."""
    marks = _in_turns([0] * HALF, [1] * HALF)
    return [bool(mark) for mark in marks[:length]]


def losses(model: Any, texts: Sequence[list[int]], prefix: int, batch: int = 16) -> list[list[float]]:
    """Bits of every token of every text, each text after the prefix token."""
    import torch

    result: list[list[float]] = []
    for start in range(0, len(texts), batch):
        ids = torch.tensor([[prefix, *text] for text in texts[start : start + batch]])
        with torch.no_grad():
            logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
        chosen = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
        result += (-chosen.double() / math.log(2)).tolist()
    return result


def by_place(values: Sequence[Sequence[float]]) -> dict[str, float]:
    return {
        place: statistics.fmean(bits for row in values for bits in row[begin:end])
        for place, (begin, end) in PLACES.items()
    }


def measure(
    builders: Mapping[str, Callable[[], Any]],
    experts: Mapping[str, Callable[[], Any]],
    held_out: Mapping[str, Sequence[str]],
    tokenizer: Any,
    prefix: int,
    *,
    count: int,
    seed: int,
    said: Callable[[str], None],
) -> dict[str, dict[str, float]]:
    """Rows of the page: losses by place for changing documents, and over all of mixed ones.

    Args:
        builders: models by row.
        experts: the model of each domain, for the oracle.
        held_out: held-out documents by domain.
        tokenizer: of all models.
        prefix: token before each document.
        count: documents a pair.
        seed: of the choice of documents.
        said: called with the row that is scored.
    """
    change, turns = changing(held_out, tokenizer, count, seed), mixed(held_out, tokenizer, count, seed)
    rows: dict[str, dict[str, float]] = {}
    for name, build in builders.items():
        said(f"change: {name}")
        model = build()
        rows[name] = by_place(losses(model, [ids for *_, ids in change], prefix))
        rows[name]["mixed"] = statistics.fmean(
            b for row in losses(model, [ids for *_, ids in turns], prefix) for b in row
        )
    rows["oracle"] = _oracle(experts, change, turns, prefix)
    return rows


def _oracle(
    experts: Mapping[str, Callable[[], Any]], change: Sequence[Text], turns: Sequence[Text], prefix: int
) -> dict[str, float]:
    """Each token's loss under the expert of its own domain, which has all before it as context."""
    halves = [False] * HALF + [True] * HALF
    changed = _by_author(experts, change, halves, prefix)
    taken = _by_author(experts, turns, from_second(2 * HALF), prefix)
    return by_place(changed) | {"mixed": statistics.fmean(bit for row in taken for bit in row)}


def _by_author(
    experts: Mapping[str, Callable[[], Any]], texts: Sequence[Text], second: Sequence[bool], prefix: int
) -> list[list[float]]:
    """Bits of every token; ``second`` marks the places of a text's second domain."""
    found: dict[tuple[str, int], list[float]] = {}
    for name, build in experts.items():
        own = [number for number, (a, b, _) in enumerate(texts) if name in (a, b)]
        bits = losses(build(), [texts[number][2] for number in own], prefix)
        found |= {(name, number): row for number, row in zip(own, bits, strict=True)}
    return [
        [found[b if late else a, number][place] for place, late in zip(range(len(ids)), second, strict=False)]
        for number, (a, b, ids) in enumerate(texts)
    ]
