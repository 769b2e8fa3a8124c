"""The prefix-evidence router against naive Bayes written out in Python integers and floats."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from quiltwork.models.evidence_router import EvidenceRouter

VOCABULARY, SEPARATOR = 12, 0
_A, _B, _C = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xC4CEB9FE1A85EC53


def settings(**changes: Any) -> dict[str, Any]:
    features = changes.get("features", "tokens")
    return {
        "features": features,
        "symbols": VOCABULARY if features == "tokens" else 16,
        "separator": SEPARATOR,
        "public": True,
        "floor": None,
        "weights": [1.0, 1.0, 1.0],
        "temperature": 1.0,
        "half_life": None,
        "switching": None,
        "top_k": None,
        "minimum_weight": 0.0,
    } | changes


def router_of(chosen: dict[str, Any], seed: int = 0) -> EvidenceRouter:
    router = EvidenceRouter(chosen)
    noise = torch.randn(router.rows.shape, generator=torch.Generator().manual_seed(seed))
    router.rows.copy_(noise.log_softmax(-1))
    return router


def symbol(features: str, before: int, token: int, symbols: int, older: int = SEPARATOR) -> int:
    if features == "tokens":
        return token
    mixed = before * _A + token * _B + (older * _C if features == "trigrams" else 0)
    return ((mixed % 2**64) >> 33) & (symbols - 1)


def read(tokens: Sequence[int], features: str, symbols: int) -> list[int]:
    """The symbols of a text; nothing before a separator is in those after it."""
    found = []
    context = [SEPARATOR, SEPARATOR]
    for token in tokens:
        if token == SEPARATOR:
            context = [SEPARATOR, SEPARATOR]
            continue
        found.append(symbol(features, context[1], token, symbols, context[0]))
        context = [context[1], token]
    return found


def filtered(priors: NDArray[np.float64], likelihoods: NDArray[np.float64], switching: float) -> NDArray[np.float64]:
    """The filter of the hidden Markov model, by summing over every sequence of authors."""
    scores = np.zeros(len(priors))
    pi = priors / priors.sum()
    for authors in itertools.product(range(len(pi)), repeat=len(likelihoods) + 1):
        probability = pi[authors[0]]
        for step, (one, other) in enumerate(itertools.pairwise(authors)):
            moves = switching * pi[other] + (1 - switching) * (one == other)
            probability *= moves * likelihoods[step, other]
        scores[authors[-1]] += probability
    return scores / scores.sum()


def by_hand(router: EvidenceRouter, tokens: Sequence[int]) -> NDArray[np.float64]:
    """Weights ``[tokens, slots]`` of one sequence, every prefix from scratch."""
    chosen = router.settings
    rows = router.rows.double().numpy()
    hypotheses: list[tuple[int, NDArray[np.float64]]] = [(0, rows[0])] if chosen["public"] else []
    if chosen["floor"] is not None:
        uniform = math.log(1 / chosen["symbols"])
        hypotheses.append((0, np.full(chosen["symbols"], chosen["floor"] + uniform)))
    first = int(chosen["public"])
    hypotheses += [(1 + i, rows[first + i]) for i in range(len(rows) - first)]
    for_base = sum(slot == 0 for slot, _ in hypotheses)
    fade = 1.0 if chosen["half_life"] is None else 0.5 ** (1 / chosen["half_life"])
    result = []
    priors = np.array([chosen["weights"][slot] / (for_base if slot == 0 else 1) for slot, _ in hypotheses])
    for end in range(1, len(tokens) + 1):
        places = read(tokens[:end], chosen["features"], chosen["symbols"])
        table = np.array([[row[place] / chosen["temperature"] for _, row in hypotheses] for place in places])
        table = table.reshape(len(places), len(hypotheses))
        if chosen["switching"] is None:
            ages = np.arange(len(places))[::-1]
            scores = np.log(priors) + (fade**ages) @ table
            shares = np.exp(scores - scores.max())
            shares /= shares.sum()
        else:
            shares = filtered(priors, np.exp(table), chosen["switching"])
        slots = np.zeros(len(chosen["weights"]))
        for (slot, _), share in zip(hypotheses, shares, strict=True):
            slots[slot] += share
        if chosen["top_k"] is not None:
            slots[np.argsort(-slots)[chosen["top_k"] :]] = 0
        slots[(slots < chosen["minimum_weight"]) & (slots < slots.max())] = 0
        result.append(slots / slots.sum())
    return np.array(result)


CASES: list[dict[str, Any]] = [
    {},
    {"features": "bigrams"},
    {"floor": 0.2},
    {"floor": -0.4, "public": False},
    {"features": "bigrams", "half_life": 3.0, "floor": 0.0},
    {"weights": [0.5, 3.0, 1.0], "temperature": 2.5},
    {"top_k": 1},
    {"top_k": 2, "half_life": 5.0},
    {"minimum_weight": 0.2},
    {"features": "trigrams"},
    {"features": "trigrams", "half_life": 4.0, "floor": 0.1},
    {"features": "bigrams", "top_k": 2, "minimum_weight": 0.3, "weights": [2.0, 1.0, 1.0]},
]


# every sequence of authors is summed over, so these texts are short
SWITCHING: list[dict[str, Any]] = [
    {"switching": 0.2},
    {"switching": 0.05, "features": "trigrams", "weights": [1.0, 3.0, 0.5]},
    {"switching": 0.9, "features": "bigrams", "temperature": 2.0},
]


def some_tokens(seed: int, count: int) -> list[int]:
    """Random tokens with a separator at the start, in the middle twice, and near the end."""
    tokens = torch.randint(0, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()
    for place in (0, count // 2, count // 2 + 1, count - 2):
        tokens[place] = SEPARATOR
    return tokens


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights_are_naive_bayes_over_the_prefix(case: dict[str, Any]) -> None:
    router = router_of(settings(**case))
    tokens = some_tokens(1, 17)
    weights, _ = router(torch.tensor([tokens]), None, None)
    np.testing.assert_allclose(weights[0].numpy(), by_hand(router, tokens), atol=2e-6)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 17))


@pytest.mark.parametrize("case", SWITCHING, ids=str)
def test_switching_weights_are_those_of_the_hidden_markov_model(case: dict[str, Any]) -> None:
    router = router_of(settings(**case))
    tokens = [SEPARATOR, 3, 5, 5, SEPARATOR, 7, 2, 9]
    weights, _ = router(torch.tensor([tokens]), None, None)
    np.testing.assert_allclose(weights[0].numpy(), by_hand(router, tokens), atol=2e-6)
    still, _ = router_of(settings(**case | {"switching": None}))(torch.tensor([tokens]), None, None)
    assert (still - weights).abs().max() > 1e-3


@pytest.mark.parametrize("case", CASES + SWITCHING, ids=str)
@pytest.mark.parametrize("cuts", [[1] * 16, [5, 6, 5], [16]])
def test_chunks_give_what_one_pass_gives(case: dict[str, Any], cuts: list[int]) -> None:
    router = router_of(settings(**case))
    ids = torch.tensor([some_tokens(seed, 16) for seed in (2, 3)])
    whole, _ = router(ids, None, None)
    pieces, state, start = [], None, 0
    for cut in cuts:
        piece, state = router(ids[:, start : start + cut], state, None)
        pieces.append(piece)
        start += cut
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=2e-6, rtol=0)


@pytest.mark.parametrize("side", ["left", "right", "middle"])
def test_padding_leaves_no_trace_under_switching(side: str) -> None:
    router = router_of(settings(switching=0.3, features="trigrams"))
    text, pads = [3, 5, 2, 8], [7] * 3
    where = {"left": 0, "right": 4, "middle": 2}[side]
    ids = torch.tensor([text[:where] + pads + text[where:]])
    real = torch.tensor([[True] * where + [False] * 3 + [True] * (4 - where)])
    weights, state = router(ids, None, real)
    np.testing.assert_allclose(weights[0][real[0]].numpy(), by_hand(router, text), atol=2e-6)
    following, _ = router(torch.tensor([[4]]), state, None)
    np.testing.assert_allclose(following[0].numpy(), by_hand(router, [*text, 4])[-1:], atol=2e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("side", ["left", "right", "middle"])
def test_padding_leaves_no_trace(case: dict[str, Any], side: str) -> None:
    router = router_of(settings(**case))
    short, long = some_tokens(4, 9), some_tokens(5, 14)
    pads = [7] * 5
    padded, mask = {
        "left": (pads + short, [0] * 5 + [1] * 9),
        "right": (short + pads, [1] * 9 + [0] * 5),
        "middle": (short[:4] + pads + short[4:], [1] * 4 + [0] * 5 + [1] * 5),
    }[side]
    ids, real = torch.tensor([padded, long]), torch.tensor([mask, [1] * 14]).bool()
    weights, state = router(ids, None, real)
    np.testing.assert_allclose(weights[0][real[0]].numpy(), by_hand(router, short), atol=2e-6)
    np.testing.assert_allclose(weights[1].numpy(), by_hand(router, long), atol=2e-6)
    following, _ = router(torch.tensor([[3], [4]]), state, None)
    np.testing.assert_allclose(following[0].numpy(), by_hand(router, [*short, 3])[-1:], atol=2e-6)


def test_the_check_notices_a_separator_that_counts() -> None:
    router = router_of(settings())
    tokens = some_tokens(1, 17)
    broken = router_of(settings(separator=VOCABULARY + 5))
    weights, _ = broken(torch.tensor([tokens]), None, None)
    assert np.abs(weights[0].numpy() - by_hand(router, tokens)).max() > 1e-3


def test_the_separator_says_nothing_and_is_paired_with_what_follows() -> None:
    router = router_of(settings(features="bigrams"))
    # a token whose pairs with 5 and with the separator fall into different cells
    token = next(t for t in range(1, VOCABULARY) if symbol("bigrams", 5, t, 16) != symbol("bigrams", SEPARATOR, t, 16))
    weights, _ = router(torch.tensor([[4, 5, SEPARATOR, SEPARATOR, token]]), None, None)
    assert torch.equal(weights[0, 1], weights[0, 2])
    assert torch.equal(weights[0, 1], weights[0, 3])
    straight, _ = router(torch.tensor([[4, 5, token]]), None, None)
    assert not torch.allclose(weights[0, 4], straight[0, 2])


def test_before_any_token_counts_the_prior_speaks() -> None:
    router = router_of(settings(weights=[1.0, 2.0, 5.0]))
    weights, _ = router(torch.tensor([[SEPARATOR]]), None, None)
    torch.testing.assert_close(weights[0, 0], torch.tensor([0.125, 0.25, 0.625]))


def test_state_follows_a_selection_of_sequences() -> None:
    router = router_of(settings(features="bigrams", half_life=4.0))
    ids = torch.tensor([some_tokens(seed, 8) for seed in (6, 7)])
    _, state = router(ids, None, None)
    chosen = state.select(torch.tensor([1, 1, 0]))
    weights, _ = router(torch.tensor([[5], [5], [5]]), chosen, None)
    single, _ = router(torch.tensor([[5], [5]]), state, None)
    assert torch.equal(weights, single[[1, 1, 0]])


def test_the_future_does_not_leak_into_the_past() -> None:
    router = router_of(settings(features="bigrams"))
    ids = torch.tensor([some_tokens(8, 12)])
    changed = ids.clone()
    changed[0, 7:] = 3
    one, other = router(ids, None, None)[0], router(changed, None, None)[0]
    assert torch.equal(one[:, :7], other[:, :7])
    assert not torch.equal(one[:, 7:], other[:, 7:])


def test_the_posterior_is_kept_and_made_anew_when_the_rows_change() -> None:
    router = router_of(settings())
    ids = torch.tensor([some_tokens(3, 6)])
    first, _ = router(ids, None, None)
    assert router.posterior() is router.posterior()
    with torch.no_grad():
        router.rows.copy_(router.rows.flip(0))
    np.testing.assert_allclose(router(ids, None, None)[0][0].numpy(), by_hand(router, ids[0].tolist()), atol=1e-5)
    assert not torch.equal(router(ids, None, None)[0], first)
    with torch.inference_mode():
        other = EvidenceRouter(settings())
        other.rows = router.rows.clone()
        assert torch.equal(other(ids, None, None)[0], router(ids, None, None)[0])
