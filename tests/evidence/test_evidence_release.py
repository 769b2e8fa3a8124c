"""What leaves: sensitivity by brute force, events against their price, rules as text, and a simulation."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption
from quiltwork.evidence import release
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.evidence.release import ReleaseRule, release_rule
from quiltwork.privacy.accountant import calibrate_gaussian, price
from quiltwork.privacy.events import ExactEvent, GaussianEvent, LaplaceEvent

V = 12
corpora = st.lists(st.lists(st.integers(0, V - 1), max_size=60), max_size=8)
documents_of_any_length = st.lists(st.integers(0, V - 1), max_size=200)


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_exact_is_the_histogram_and_is_priced_at_infinity() -> None:
    histogram, events = release.exact([[0, 0, 1], [2]], 4)
    assert histogram.counts.tolist() == [2, 1, 1, 0]
    assert events == (ExactEvent(released="tokens"),)
    assert price(events, delta=1e-6) == math.inf


@settings(deadline=None)
@given(corpora, st.integers(1, 5))
def test_a_minimum_count_keeps_the_cells_of_enough_documents(corpus: list[list[int]], minimum: int) -> None:
    histogram, events = release.with_minimum_count(corpus, V, minimum)
    for token in range(V):
        holders = [document for document in corpus if token in document]
        expected = sum(document.count(token) for document in holders) if len(holders) >= minimum else 0
        assert histogram.counts[token] == expected
    (event,) = events
    assert isinstance(event, ExactEvent)
    assert event.note == f"cells seen in fewer than {minimum} documents set to zero"
    assert price(events, delta=1e-6) == math.inf, "no theorem covers the rule"


def test_negative_control_a_token_often_in_one_document_is_not_kept() -> None:
    assert release.with_minimum_count([[3] * 100, [4]], V, 2)[0].counts.sum() == 0
    assert release.with_minimum_count([[3] * 100, [3]], V, 2)[0].counts[3] == 101


@pytest.mark.parametrize("order", [1, 2])
@settings(deadline=None)
@given(corpus=corpora, extra=documents_of_any_length, clip=st.floats(1, 50))
def test_one_document_changes_the_clipped_sum_by_at_most_the_clip(
    order: int, corpus: list[list[int]], extra: list[int], clip: float
) -> None:
    without = release._clipped_sum(corpus, V, clip, order)
    change = release._clipped_sum([*corpus, extra], V, clip, order) - without
    exact = [round(float(cell) * 2**20) for cell in change]
    assert [cell / 2**20 for cell in exact] == change.tolist(), "sums are exact on the grid"
    bound = math.floor(clip * 2**20) + 1
    if order == 1:
        assert sum(exact) < bound
    else:
        assert sum(cell * cell for cell in exact) < bound * bound


def test_negative_control_without_the_clip_one_document_changes_the_sum_by_its_length() -> None:
    change = release._clipped_sum([[0], [1] * 500], V, 1e9, 1) - release._clipped_sum([[0]], V, 1e9, 1)
    assert np.abs(change).sum() == 500


@pytest.mark.parametrize("order", [1, 2])
@settings(deadline=None)
@given(corpus=corpora, clip=st.floats(1, 50))
def test_clipping_scales_and_keeps_what_is_within(order: int, corpus: list[list[int]], clip: float) -> None:
    expected = np.zeros(V)
    for document in corpus:
        counts = np.bincount(document, minlength=V).astype(float) if document else np.zeros(V)
        norm = np.linalg.norm(counts, ord=order)
        expected += counts * min(1.0, clip / norm) if norm else 0
    got = release._clipped_sum(corpus, V, clip, order)
    np.testing.assert_allclose(got, expected, atol=2.0**-19 * max(1, len(corpus)))
    assert (release._clipped_sum(corpus[::-1], V, clip, order) == got).all(), "order does not matter"


def test_a_laplace_release_is_priced_at_its_epsilon_for_any_data() -> None:
    for clip in (10.0, 250.0):
        _, events = release.laplace([[0] * 5000], V, 0.7, clip)
        assert events == (LaplaceEvent(released="tokens", scale=clip / 0.7, sensitivity=clip),)
        assert price(events, delta=0) == pytest.approx(0.7)


def test_a_gaussian_release_is_priced_at_its_epsilon_and_delta() -> None:
    _, events = release.gaussian([[0] * 5000], V, 2.0, 1e-5, 30.0)
    (event,) = events
    assert isinstance(event, GaussianEvent)
    assert event.sigma == calibrate_gaussian(2.0, 1e-5, 30.0)
    assert event.sensitivity == 30
    assert price(events, delta=1e-5) == pytest.approx(2.0, abs=1e-3)
    assert price(events, delta=1e-7) > 2.1


@pytest.mark.parametrize(
    "noisy",
    [lambda d, **k: release.laplace(d, V, 1.0, **k), lambda d, **k: release.gaussian(d, V, 1.0, 1e-6, **k)],
)
def test_noisy_releases_differ_each_time_unless_a_test_seeds_them(
    noisy: Callable[..., release.Release],
) -> None:
    documents = [[0, 1, 2]] * 50
    assert not np.array_equal(noisy(documents)[0].counts, noisy(documents)[0].counts)
    assert np.array_equal(noisy(documents, rng=rng())[0].counts, noisy(documents, rng=rng())[0].counts)
    assert (noisy(documents)[0].counts > 0).all(), "no token is left impossible or negative"


def test_what_follows_the_noise_reads_only_the_noisy_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two corpora forced to one noisy value release one histogram: the rest is post-processing."""
    monkeypatch.setattr(release.mechanisms, "laplace", lambda values, scale, rng: np.arange(V) - 3.0)
    first, second = (release.laplace(documents, V, 0.5, 10.0)[0] for documents in ([[0] * 9], [[5]]))
    assert first.counts.tolist() == second.counts.tolist() == [10 + max(v - 3.0, 0.0) for v in range(V)]


def test_little_noise_leaves_the_clipped_histogram() -> None:
    documents = [[0, 0, 1], [1]]
    histogram, _ = release.laplace(documents, V, 1e6, 100.0)
    np.testing.assert_allclose(histogram.counts, [2, 2] + [0] * (V - 2), atol=0.01)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("exact", "exact"),
        (" exact ", "exact"),
        ("min-count:5", "min-count:5"),
        ("laplace:epsilon=1", "laplace:epsilon=1.0,clip=100.0"),
        ("laplace:clip=1000, epsilon=0.5", "laplace:epsilon=0.5,clip=1000.0"),
        ("gaussian:epsilon=8,delta=1e-6,clip=300", "gaussian:epsilon=8.0,delta=1e-06,clip=300.0"),
        ("gaussian:epsilon=8,delta=1e-6", "gaussian:epsilon=8.0,delta=1e-06,clip=10.0"),
    ],
)
def test_a_rule_is_read_and_written_back(text: str, written: str) -> None:
    rule = release_rule(text)
    assert str(rule) == written
    assert release_rule(written) == rule


def test_a_rule_releases_as_the_function_of_its_name() -> None:
    documents = [[0, 0, 1], [1, 2]]
    pairs = [
        ("exact", release.exact(documents, V)),
        ("min-count:2", release.with_minimum_count(documents, V, 2)),
        ("laplace:epsilon=2,clip=20", release.laplace(documents, V, 2.0, 20.0, rng=rng())),
        ("gaussian:epsilon=2,delta=1e-4", release.gaussian(documents, V, 2.0, 1e-4, rng=rng())),
    ]
    for text, (histogram, events) in pairs:
        got, its_events = release_rule(text).release(documents, V, rng=rng())
        assert got.counts.tolist() == histogram.counts.tolist()
        assert its_events == events


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no rule has that name"),
        ("laplacian:epsilon=1", "no rule has that name"),
        ("exact:1", "exact takes no parameters"),
        ("min-count", "not a whole number"),
        ("min-count:2.5", "not a whole number"),
        ("min-count:-1", "not a whole number"),
        ("min-count:٣", "not a whole number"),
        ("min-count:" + "9" * 5000, "not a whole number"),
        ("min-count:0", "minimum=0"),
        ("laplace", "needs epsilon"),
        ("laplace:", "needs epsilon"),
        ("gaussian:clip=3", "needs epsilon and delta"),
        ("laplace:epsilon=1,epsilon=2", "given twice"),
        ("laplace:epsilon=1,delta=1e-6", "no parameter 'delta'"),
        ("laplace:epsilon=one", "epsilon is not a number"),
        ("laplace:epsilon=", "epsilon is not a number"),
        ("laplace:epsilon=nan", "epsilon is not finite"),
        ("laplace:epsilon=inf", "epsilon is not finite"),
        ("laplace:epsilon=0", "epsilon=0.0"),
        ("laplace:epsilon=-1", "epsilon=-1.0"),
        ("laplace:epsilon=1,clip=0.5", "clip=0.5"),
        ("laplace:epsilon=1e-300", "scale=.*or another epsilon"),
        ("gaussian:epsilon=1,delta=1", "delta=1.0"),
        ("gaussian:epsilon=1,delta=0", "delta=0.0"),
        ("gaussian:epsilon=1,delta=1e-6,clip=1e10", "clip=1"),
        ("laplace:epsilon=1,,", "no parameter ''"),
    ],
)
def test_a_text_that_is_no_rule_is_refused_before_any_work(text: str, why: str) -> None:
    with pytest.raises(InvalidOption, match=why) as refusal:
        release_rule(text)
    assert refusal.value.mend
    assert len(str(refusal.value)) < 600


def test_a_rule_of_an_unknown_name_releases_nothing() -> None:
    with pytest.raises(InvalidOption, match="no rule has that name"):
        ReleaseRule("mystery").release([[0]], V)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_reading_a_rule_is_total(text: str) -> None:
    # anything but a rule or this refusal would escape and fail the test
    with contextlib.suppress(InvalidOption):
        assert isinstance(release_rule(text), ReleaseRule)


@pytest.mark.parametrize("text", ["exact", "min-count:2", "laplace:epsilon=1", "gaussian:epsilon=1,delta=1e-6"])
def test_ids_outside_the_vocabulary_are_refused_by_every_rule(text: str) -> None:
    with pytest.raises(InvalidOption, match="document 1: it holds a token id outside"):
        release_rule(text).release([[0], [V]], V)
    with pytest.raises(InvalidOption, match="vocabulary_size=0"):
        release_rule(text).release([[0]], 0)


class World:
    """Five parties whose texts come from Dirichlet-perturbed Zipf distributions, with bursty documents."""

    def __init__(self, seed: int, vocabulary: int = 2048, documents: int = 300) -> None:
        draw = np.random.default_rng(seed)
        zipf = 1 / (np.arange(vocabulary) + 2.7)
        self.sources = [draw.dirichlet(1000 * zipf / zipf.sum()) for _ in range(5)]
        self.draw, self.vocabulary = draw, vocabulary
        medians = [400, 1200, 120, 400, 800]
        self.corpora = [
            [
                self._text(source, int(length))
                for length in np.clip(draw.lognormal(np.log(m), 0.8, documents), 20, 20000)
            ]
            for source, m in zip(self.sources, medians, strict=True)
        ]
        self.probes = np.array(
            [[np.bincount(self._text(source, 64), minlength=vocabulary) for _ in range(60)] for source in self.sources]
        )

    def _text(self, source: NDArray[np.float64], length: int) -> NDArray[np.int64]:
        bursty = self.draw.dirichlet(3000 * source + 1e-12)
        return np.repeat(np.arange(self.vocabulary), self.draw.multinomial(length, bursty))

    def routed_home(self, histograms: list[TokenHistogram]) -> float:
        """The share of 64-token texts whose own party has the largest posterior."""
        table = np.stack([histogram.log_probabilities() for histogram in histograms])
        chosen = (self.probes @ table.T).argmax(axis=-1)
        return float((chosen == np.arange(5)[:, None]).mean())


@pytest.fixture(scope="module")
def world() -> World:
    return World(seed=11)


@pytest.mark.parametrize(
    ("rule", "at_least"),
    [
        ("exact", 0.99),
        ("min-count:5", 0.99),
        ("laplace:epsilon=8", 0.9),
        ("gaussian:epsilon=8,delta=1e-6", 0.9),
        ("laplace:epsilon=1", 0.35),
        ("gaussian:epsilon=1,delta=1e-6", 0.6),
    ],
)
def test_released_histograms_route_far_above_chance(world: World, rule: str, at_least: float) -> None:
    histograms = [
        release_rule(rule).release(documents, world.vocabulary, rng=np.random.default_rng(party))[0]
        for party, documents in enumerate(world.corpora)
    ]
    assert world.routed_home(histograms) > at_least


def test_negative_control_histograms_of_noise_alone_route_by_chance(world: World) -> None:
    histograms = [release.laplace([], world.vocabulary, 8.0, rng=np.random.default_rng(party))[0] for party in range(5)]
    assert world.routed_home(histograms) < 0.3
    shifted = [release.exact(world.corpora[(party + 1) % 5], world.vocabulary)[0] for party in range(5)]
    assert world.routed_home(shifted) < 0.05
