"""Token histograms: counting, smoothing, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.errors import InvalidOption
from quiltwork.evidence.histogram import TokenHistogram

documents_of_nine = st.lists(st.lists(st.integers(0, 8), max_size=20), max_size=10)


@settings(deadline=None)
@given(documents_of_nine)
def test_counts_are_those_of_a_counter(documents: list[list[int]]) -> None:
    tally = Counter(token for document in documents for token in document)
    assert TokenHistogram.from_documents(documents, 9).counts.tolist() == [tally[v] for v in range(9)]


@settings(deadline=None)
@given(documents_of_nine, documents_of_nine)
def test_histograms_add_up(first: list[list[int]], second: list[list[int]]) -> None:
    apart = [TokenHistogram.from_documents(documents, 9).counts for documents in (first, second)]
    assert (sum(apart) == TokenHistogram.from_documents(first + second, 9).counts).all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(1, 8))
def test_log_probabilities_are_the_smoothed_fractions(counts: list[int], eighths: int) -> None:
    smoothing = Fraction(eighths, 8)
    total = sum(counts) + smoothing * len(counts)
    expected = [math.log((count + smoothing) / total) for count in counts]
    got = TokenHistogram(np.array(counts, dtype=float)).log_probabilities(float(smoothing))
    assert got.dtype == np.float64
    assert got == pytest.approx(expected, rel=1e-12, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=12))
def test_every_probability_is_positive_and_they_sum_to_one(counts: list[float]) -> None:
    logs = TokenHistogram(np.array(counts)).log_probabilities()
    assert np.isfinite(logs).all()
    assert np.exp(logs).sum() == pytest.approx(1)


def test_negative_control_without_smoothing_an_unseen_token_is_impossible() -> None:
    with np.errstate(divide="ignore"):
        assert np.log(np.array([0.0, 1.0])).min() == -math.inf
    assert TokenHistogram(np.array([0.0, 1.0])).log_probabilities()[0] == pytest.approx(math.log(0.25))


def test_documents_are_streamed_and_may_be_arrays_or_empty() -> None:
    stream = iter((np.array([1, 1], dtype=np.uint16), [], (0,), np.array([], dtype=float)))
    assert TokenHistogram.from_documents(stream, 3).counts.tolist() == [1, 2, 0]
    assert TokenHistogram.from_documents([], 2).log_probabilities() == pytest.approx([math.log(0.5)] * 2)


def test_the_counts_are_a_frozen_copy() -> None:
    mine = np.array([1.0, 2.0])
    histogram = TokenHistogram(mine)
    mine[0] = 9
    assert histogram.counts.tolist() == [1, 2]
    assert histogram.vocabulary_size == 2
    with pytest.raises(ValueError, match="read-only"):
        histogram.counts[0] = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        histogram.counts = mine  # type: ignore[misc]


@pytest.mark.parametrize(
    ("counts", "why"),
    [
        ([[1.0, 2.0]], r"shape \(1, 2\)"),
        ([], r"shape \(0,\)"),
        (3.0, r"shape \(\)"),
        ([1.0, math.nan], "not all finite"),
        ([1.0, math.inf], "not all finite"),
        ([1e308] * 3, "their sum is not"),
        ([0.0, 1.0, -0.5], "token 2 is negative"),
    ],
)
def test_counts_that_are_none_are_refused(counts: object, why: str) -> None:
    with pytest.raises(InvalidOption, match=f"token counts.*{why}"):
        TokenHistogram(np.array(counts))


@pytest.mark.parametrize("smoothing", [0.0, -1.0, math.nan, math.inf])
def test_a_smoothing_outside_its_domain_is_refused(smoothing: float) -> None:
    with pytest.raises(InvalidOption, match=r"smoothing=.*Choose a positive number"):
        TokenHistogram(np.ones(2)).log_probabilities(smoothing)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ([0, 3], "outside 0..2"),
        ([-1], "outside 0..2"),
        ([2**63], "outside 0..2"),
        ([2**70], "not a sequence of whole token ids"),
        ([0.0], "not a sequence of whole token ids"),
        ([True], "not a sequence of whole token ids"),
        ([[0]], "not a sequence of whole token ids"),
        (["secret"], "not a sequence of whole token ids"),
    ],
)
def test_a_document_that_is_not_of_token_ids_is_refused_by_number(document: list[object], why: str) -> None:
    with pytest.raises(InvalidOption, match=f"document 1: .*{why}") as refusal:
        TokenHistogram.from_documents([[0], document], 3)  # type: ignore[list-item]
    assert "secret" not in str(refusal.value), "an error must not hold content"


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "3"])
def test_a_vocabulary_size_that_is_none_is_refused(size: object) -> None:
    with pytest.raises(InvalidOption, match="vocabulary_size="):
        TokenHistogram.from_documents([], size)  # type: ignore[arg-type]
