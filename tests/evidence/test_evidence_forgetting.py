"""Fixed share against the forward algorithm of a hidden Markov model, by recursion and by brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption
from quiltwork.evidence.forgetting import fixed_share, require_forgetting
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.evidence.posterior import PrefixPosterior

V = 11
Floats = NDArray[np.float64]


def rule(seed: int, *, parties: int = 3, **options: float | None) -> PrefixPosterior:
    draw = np.random.default_rng(seed)
    counts = [TokenHistogram(draw.integers(0, 40, V).astype(float)) for _ in range(parties + 1)]
    prior = [2.0, 1.0, 0.5, 3.0][: parties + 1]
    return PrefixPosterior.from_histograms(counts[1:], public=counts[0], prior=prior, **options)  # type: ignore[arg-type]


def ids(seed: int, length: int, batch: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, V, (batch, length)))


def hypotheses(found: PrefixPosterior) -> tuple[Floats, Floats]:
    """Normalised prior ``[H]`` and likelihoods ``[H, V]``."""
    prior = np.exp(found.log_prior.numpy())
    return prior / prior.sum(), np.exp(found.log_likelihood.double().numpy() / found.temperature)


def by_paths(found: PrefixPosterior, text: list[int]) -> Floats:
    """P(author of the last token | text), summed over every sequence of authors."""
    prior, likelihood = hypotheses(found)
    assert found.switching is not None
    scores = np.zeros(len(prior))
    for path in itertools.product(range(len(prior)), repeat=len(text) + 1):
        p = prior[path[0]]
        for token, (one, other) in zip(text, itertools.pairwise(path), strict=True):
            p *= (found.switching * prior[other] + (1 - found.switching) * (one == other)) * likelihood[other, token]
        scores[path[-1]] += p
    return scores / scores.sum()


def by_matrices(found: PrefixPosterior, text: list[int]) -> Floats:
    """The forward algorithm with a transition matrix; long texts are kept from vanishing by a power of two."""
    prior, likelihood = hypotheses(found)
    assert found.switching is not None
    moves = (1 - found.switching) * np.eye(len(prior)) + found.switching * np.tile(prior, (len(prior), 1))
    forward = prior
    for token in text:
        forward = (forward @ moves) * likelihood[:, token]
        forward = np.ldexp(forward, -int(np.frexp(forward.max())[1]))
    return forward / forward.sum()


def weights(found: PrefixPosterior, text: torch.Tensor, mask: torch.Tensor | None = None) -> Floats:
    log_weights, _ = found.advance(text, found.initial_state(len(text)), mask)
    return log_weights.exp().double().numpy()


@pytest.mark.parametrize("switching", [1e-6, 0.05, 0.5, 0.999])
def test_weights_are_those_of_every_sequence_of_authors(switching: float) -> None:
    found = rule(1, switching=switching, temperature=1.5)
    text = ids(2, 6)
    for end in range(1, 7):
        expected = by_paths(found, text[0, :end].tolist())
        np.testing.assert_allclose(weights(found, text)[0, end - 1], expected, atol=1e-6)
        np.testing.assert_allclose(by_matrices(found, text[0, :end].tolist()), expected, atol=1e-12)


@pytest.mark.parametrize("broken", ["alike", "stays", "uniform"])
def test_negative_control_another_model_is_noticed(broken: str) -> None:
    found = rule(1, switching=0.2)
    text = ids(2, 12)
    evidence = found.log_likelihood[:, text].movedim(0, -1).double()
    prior = torch.from_numpy(hypotheses(found)[0])
    wrong = {
        "alike": lambda: fixed_share(evidence * 0, prior[None], None, prior, 0.2),
        "stays": lambda: fixed_share(evidence, prior[None], None, prior, 1e-9),
        "uniform": lambda: fixed_share(evidence, prior[None], None, torch.full_like(prior, 0.25), 0.2),
    }[broken]()
    assert np.abs(wrong[0, -1].numpy() - by_matrices(found, text[0].tolist())).max() > 1e-3


@pytest.mark.parametrize("cuts", [[1] * 300, [299, 1], [100, 200]])
def test_chunks_give_what_one_pass_gives_over_block_boundaries(cuts: list[int]) -> None:
    found = rule(3, switching=0.01)
    text = ids(4, 300, batch=2)
    whole, _ = found.advance(text, found.initial_state(2))
    pieces, state, start = [], found.initial_state(2), 0
    for cut in cuts:
        piece, state = found.advance(text[:, start : start + cut], state)
        pieces.append(piece)
        start += cut
    assert torch.equal(torch.cat(pieces, 1), whole)
    np.testing.assert_allclose(whole[1, -1].exp().double(), by_matrices(found, text[1].tolist()), atol=1e-6)


def test_a_masked_token_changes_nothing() -> None:
    found = rule(5, switching=0.1)
    text = ids(6, 9)
    mask = torch.ones_like(text, dtype=torch.bool)
    mask[0, [0, 4, 5]] = False
    expected = weights(found, text[:, [1, 2, 3, 6, 7, 8]])
    got = weights(found, text, mask)
    np.testing.assert_array_equal(got[:, [1, 2, 3, 6, 7, 8]], expected)
    np.testing.assert_array_equal(got[0, 4], got[0, 3])
    np.testing.assert_allclose(got[0, 0], hypotheses(found)[0], atol=1e-6)


def test_taking_a_party_out_is_exact() -> None:
    draw = np.random.default_rng(7)
    counts = [TokenHistogram(draw.integers(0, 40, V).astype(float)) for _ in range(4)]
    found = PrefixPosterior.from_histograms(counts[1:], public=counts[0], switching=0.05)
    without = PrefixPosterior.from_histograms([counts[1], counts[3]], public=counts[0], switching=0.05)
    text = ids(8, 40)
    one = found.select([0, 1, 3])
    assert torch.equal(one.advance(text, one.initial_state(1))[0], without.advance(text, without.initial_state(1))[0])


def test_a_hypothesis_ruled_out_stays_out_and_extreme_evidence_does_no_harm() -> None:
    table = torch.tensor([[-1e4, 0.0], [0.0, -1e4], [0.0, 0.0]], dtype=torch.float64)
    prior = torch.tensor([0.0, 0.0, -math.inf], dtype=torch.float64)
    found = PrefixPosterior(table, prior, (0, 1, 2), 3, temperature=0.01, switching=1e-9)
    got = weights(found, torch.tensor([[0, 0, 1, 0, 1, 1]]))
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[0, :, 1], [1, 1, 0, 1, 0, 0], atol=1e-6)
    assert (got[..., 2] == 0).all()


def test_a_change_is_followed_at_once_where_a_sum_takes_as_long_as_before() -> None:
    """A text of one author for 200 tokens, then of another: the sum must unlearn 200 tokens, fixed share does not."""
    draw = np.random.default_rng(9)
    one, other = (draw.dirichlet(np.full(V, 0.5)) for _ in range(2))
    parties = [TokenHistogram(p * 1e5) for p in (one, other)]
    text = np.concatenate([draw.choice(V, 200, p=one), draw.choice(V, 60, p=other)])[None]
    late = {}
    for name, options in {"sum": {}, "share": {"switching": 0.01}}.items():
        found = PrefixPosterior.from_histograms(parties, floor=0.0, **options)  # type: ignore[arg-type]
        own = weights(found, torch.from_numpy(text))[0, 200:, 2]
        late[name] = int(np.argmax(own > 0.5)) if (own > 0.5).any() else len(own)
    assert late["share"] < 20 <= late["sum"] / 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"temperature": math.nan}, "temperature=nan"),
        ({"half_life": 0.0}, "half_life=0.0"),
        ({"switching": 0.0}, "switching=0.0"),
        ({"switching": 1.0}, "switching=1.0"),
        ({"switching": math.nan}, "switching=nan"),
        ({"switching": 0.1, "half_life": 5.0}, "half_life and switching together"),
    ],
)
def test_settings_outside_their_domain_are_refused(change: dict[str, float], message: str) -> None:
    sound: dict[str, float | None] = {"temperature": 1.0, "half_life": None, "switching": None}
    require_forgetting(**sound)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match=message):
        require_forgetting(**sound | change)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match=message):
        rule(1, **change)
