"""Histograms held against each other: scipy's divergences, sampled text, and counts made up to win."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from quiltwork.evaluate.screen_evidence import (
    common_text,
    describe,
    gain,
    histogram_findings,
    information,
    jensen_shannon,
    pair_seed,
)
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.evidence.posterior import PrefixPosterior

SIZE = 500
SOURCE = np.random.default_rng(0).dirichlet(np.full(SIZE, 0.3))


def sample(tokens: int, seed: int, source: np.ndarray = SOURCE) -> np.ndarray:
    return np.random.default_rng(seed).multinomial(tokens, source).astype(np.float64)


def test_divergences_are_scipy_s() -> None:
    n, m = sample(400, 1), sample(900, 2)
    assert jensen_shannon(n, m) == pytest.approx(jensenshannon(n, m) ** 2)
    assert information(n) == pytest.approx(1 - entropy(n / n.sum()) / np.log(SIZE))
    assert (information(np.full(SIZE, 7.0)), information(np.zeros(SIZE))) == (pytest.approx(0.0), 0.0)


@pytest.mark.parametrize("tokens", [300, 3_000, 300_000])
def test_independent_text_of_one_source_has_nothing_in_common(tokens: int) -> None:
    found = [common_text(sample(tokens, s), sample(2 * tokens, 50 + s), 0) for s in range(8)]
    assert np.mean(found) < 0.12
    assert max(found) < 0.3


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_the_share_of_common_text_is_recovered(share: float) -> None:
    tokens, found = 40_000, []
    for seed in range(6):
        common = sample(int(share * tokens), seed)
        own = [sample(int((1 - share) * tokens), 100 + seed + 50 * k) for k in range(2)]
        found.append(common_text(common + own[0], common + own[1], seed))
    assert np.mean(found) == pytest.approx(share, abs=0.12)


@pytest.mark.parametrize("factor", [1.0, 3.0, 1e6])
def test_copies_have_everything_in_common_scaled_or_not(factor: float) -> None:
    n = sample(5_000, 1)
    assert common_text(n, factor * n, 0) == pytest.approx(1.0, abs=0.01)
    noisy = np.maximum(n * (1 + 0.02 * np.random.default_rng(0).normal(size=SIZE)), 0)
    assert common_text(n, noisy, 0) > 0.9


def test_other_text_and_no_text_have_nothing_in_common() -> None:
    n = sample(5_000, 1)
    assert common_text(n, n[::-1].copy(), 0) == 0.0
    assert common_text(n, np.zeros(SIZE), 0) == 0.0
    assert common_text(np.full(SIZE, 0.001), n, 0) == 0.0


def test_a_pair_is_judged_alike_whoever_comes_first_and_whoever_else_takes_part() -> None:
    n, m = sample(900, 1), sample(700, 2)
    assert pair_seed("ash", "oak") == pair_seed("oak", "ash") != pair_seed("ash", "elm")
    seed = pair_seed("ash", "oak")
    assert common_text(n, m, seed) == common_text(n, m, seed)


def test_a_positive_gain_wins_the_text_under_the_router() -> None:
    """The figure against what the router does with text drawn from the victim's own counts."""
    victim = TokenHistogram(sample(200, 1))
    blown_up = TokenHistogram(1e6 * (0.98 * victim.counts / 200 + 0.02 * SOURCE))
    fair = TokenHistogram(sample(200, 2, SOURCE[::-1].copy()))
    text = np.random.default_rng(3).choice(SIZE, size=300, p=victim.counts / 200)
    for other, wins in ((blown_up, True), (fair, False)):
        assert (gain(other, victim, 0.5) > 0) == wins
        both = PrefixPosterior.from_histograms([victim, other], floor=-50.0)
        import torch

        log_weights, _ = both.advance(torch.from_numpy(text)[None], both.initial_state(1))
        assert (float(log_weights[0, -1, 2].exp()) > 0.9) == wins


def test_without_smoothing_nobody_gains() -> None:
    n, m = sample(10**7, 1) + 1, sample(10**7, 2) + 1
    assert gain(TokenHistogram(n), TokenHistogram(m), 1e-9) < 0


def named(**counts: np.ndarray) -> dict[str, TokenHistogram]:
    return {name: TokenHistogram(value) for name, value in counts.items()}


def found(histograms: dict[str, TokenHistogram], trained: int | None = 10_000) -> list[tuple[str, str, str]]:
    described = {p: describe(p, histograms, trained, 0.5) for p in histograms if p != "public"}
    findings = histogram_findings("tokens", {p: one for p, one in described.items() if one is not None})
    return [(party, finding.level, finding.what) for party, finding in findings]


def test_honest_histograms_are_let_alone() -> None:
    draw = np.random.default_rng(5)
    parties = {name: sample(4_000, k, draw.dirichlet(np.full(SIZE, 0.3))) for k, name in enumerate("abcd")}
    assert found(named(public=sample(9_000, 9), **parties)) == []


def test_made_up_histograms_are_found() -> None:
    honest = {"a": sample(900, 1), "b": sample(900, 2, SOURCE[::-1].copy())}
    public = sample(900, 3)
    flat = found(named(**honest, public=public, c=np.full(SIZE, 40.0)))
    assert [(party, level) for party, level, _ in flat] == [("c", "look")]
    assert "flat" in flat[0][2]
    greedy = found(named(**honest, public=public, c=1e7 * (public / 900 + honest["a"] / 900 + honest["b"] / 900)))
    assert {party for party, *_ in greedy} == {"c"}
    assert any("times" not in what and "counts" in what for *_, what in greedy)
    # negative control: the same counts, not blown up and in the measure of what was trained, only say little
    modest = found(named(**honest, public=public, c=public + honest["a"] + honest["b"]))
    assert all(level == "note" for _, level, _ in modest)


def test_an_owner_with_far_more_text_of_one_kind_is_only_noted() -> None:
    histograms = named(small=sample(40, 1), large=sample(80_000, 2))
    assert [(p, level) for p, level, _ in found(histograms, trained=100_000)] == [("large", "note")]
    assert [(p, level) for p, level, _ in found(histograms, trained=None)] == [("large", "look")]
