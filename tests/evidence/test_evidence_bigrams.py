"""The hash of a pair against integers of any size, the pairs of a document, and their private release."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption
from quiltwork.evidence.bigrams import CELLS, cell, document_cells, require_cells
from quiltwork.evidence.histogram import TokenHistogram
from quiltwork.evidence.release import ReleaseRule, release_rule
from quiltwork.privacy import accountant
from quiltwork.privacy.events import LaplaceEvent

A, B = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
SEPARATOR = 0

Cells = Callable[[NDArray[np.int64], NDArray[np.int64], int], NDArray[np.int64]]

tokens = st.integers(0, 2**31 - 1)
powers = st.integers(1, 24).map(lambda bits: 2**bits)
documents_of_tokens = st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=8)


def reference(previous: int, current: int, cells: int) -> int:
    """The formula of the docstring in Python's integers, which do not wrap around by themselves."""
    return ((previous * A + current * B) % 2**64 >> 33) % cells


def disagreements(hashed: Cells, pairs: list[tuple[int, int]], cells: int) -> int:
    previous, current = (np.array(column, dtype=np.int64) for column in zip(*pairs, strict=True))
    found = hashed(previous, current, cells)
    return sum(int(one) != reference(*pair, cells) for one, pair in zip(found, pairs, strict=True))


# one pair -------------------------------------------------------------


@given(st.lists(st.tuples(tokens, tokens), min_size=1, max_size=30), powers)
def test_numpy_and_torch_give_what_integers_of_any_size_give(pairs: list[tuple[int, int]], cells: int) -> None:
    assert disagreements(cell, pairs, cells) == 0
    previous, current = torch.tensor(pairs).T
    assert cell(previous, current, cells).tolist() == [reference(*pair, cells) for pair in pairs]


@pytest.mark.parametrize(
    "broken",
    [
        lambda p, c, m: cell(c, p, m),  # the order of the pair lost
        lambda p, c, m: cell(p * 0, c, m),  # a hash of tokens
        lambda p, c, m: (p * (A - 2**64) + c * (B - 2**64)) & (m - 1),  # the low bits, which mix least
    ],
)
def test_negative_control_other_hashes_disagree(broken: Cells) -> None:
    pairs = [(i, 7 * i + 3) for i in range(50)]
    assert disagreements(cell, pairs, CELLS) == 0
    assert disagreements(broken, pairs, CELLS) > 40


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1), powers)
def test_every_cell_is_one_that_there_is(previous: int, current: int, cells: int) -> None:
    found = cell(np.array([previous]), np.array([current]), cells)
    assert found.dtype == np.int64
    assert 0 <= found[0] < cells


def test_shapes_are_kept() -> None:
    grid = torch.arange(12).reshape(3, 4)
    assert cell(grid, grid, 64).shape == grid.shape
    assert torch.equal(cell(grid, grid, 64)[1], cell(grid[1], grid[1], 64))
    assert cell(grid[:0], grid[:0], 64).shape == (0, 4)
    assert np.array_equal(cell(grid.numpy(), grid.numpy(), 64), cell(grid, grid, 64).numpy())


def test_pairs_spread_over_the_cells() -> None:
    """All pairs of 256 tokens in 1024 cells: a random function would put 64 in each, with deviation 8."""
    first, second = np.meshgrid(np.arange(256), np.arange(256))
    load = np.bincount(cell(first.ravel(), second.ravel(), 1024), minlength=1024)
    assert load.min() > 0
    assert np.std(load) < 16
    swapped = cell(first, second, CELLS) == cell(second, first, CELLS)
    assert swapped[first != second].mean() < 0.001


# the number of cells --------------------------------------------------


@pytest.mark.parametrize("bits", [1, 16, 24])
def test_powers_of_two_are_accepted(bits: int) -> None:
    assert require_cells(2**bits) == 2**bits


@pytest.mark.parametrize("cells", [-4, 0, 1, 3, 1000, 2**24 + 1, 2**25])
def test_other_numbers_of_cells_are_refused_by_name(cells: int) -> None:
    with pytest.raises(InvalidOption, match=rf"cells={cells}: .*Choose a power of two"):
        require_cells(cells)
    with pytest.raises(InvalidOption, match="power of two"):
        list(document_cells([[1, 2]], SEPARATOR, cells))


# documents ------------------------------------------------------------


@given(documents_of_tokens, st.integers(0, 60), powers)
def test_a_document_has_as_many_cells_as_tokens(documents: list[list[int]], separator: int, cells: int) -> None:
    expected = [
        [reference(p, c, cells) for p, c in zip([separator, *document], document, strict=False)]
        for document in documents
        if document
    ]
    assert [found.tolist() for found in document_cells(documents, separator, cells)] == expected


def test_the_first_token_is_paired_with_the_separator_and_not_with_the_document_before() -> None:
    _, second = document_cells([[5, 6], [7, 8]], SEPARATOR)
    assert second[0] == reference(SEPARATOR, 7, CELLS) != reference(6, 7, CELLS)
    (other,) = document_cells([[7, 8]], separator=1)
    assert other[0] == reference(1, 7, CELLS) != second[0]
    assert other[1] == second[1]


def test_documents_may_be_arrays_of_any_integers_and_a_stream() -> None:
    stream = (np.array(document, dtype=np.int32) for document in ([3, 4], [], [5]))
    assert [found.tolist() for found in document_cells(stream, SEPARATOR)] == [
        found.tolist() for found in document_cells([[3, 4], [5]], SEPARATOR)
    ]


@given(documents_of_tokens)
def test_a_histogram_of_cells_counts_pairs(documents: list[list[int]]) -> None:
    pairs = Counter(
        reference(p, c, 256) for document in documents for p, c in zip([SEPARATOR, *document], document, strict=False)
    )
    histogram = TokenHistogram.from_documents(document_cells(documents, SEPARATOR, 256), 256)
    assert {int(i): int(histogram.counts[i]) for i in np.flatnonzero(histogram.counts)} == dict(pairs)
    assert histogram.counts.sum() == sum(map(len, documents))


def test_bigrams_tell_apart_what_tokens_cannot() -> None:
    """Two texts of the same tokens in another order: equal histograms of tokens, others of pairs."""
    forth, back = [[1, 2, 3, 4] * 20], [[4, 3, 2, 1] * 20]
    one, other = (TokenHistogram.from_documents(d, 8).counts for d in (forth, back))
    assert np.array_equal(one, other)
    one, other = (TokenHistogram.from_documents(document_cells(d, SEPARATOR), CELLS).counts for d in (forth, back))
    assert np.minimum(one, other).sum() == 0


# private release ------------------------------------------------------


def released(rule: ReleaseRule, documents: list[list[int]], cells: int = 64) -> NDArray[np.float64]:
    pairs = document_cells(documents, SEPARATOR, cells)
    histogram, _ = rule.release(pairs, cells, rng=np.random.default_rng(3))
    return np.asarray(histogram.counts)


def test_laplace_noise_is_priced_by_the_most_a_document_counts() -> None:
    rule = release_rule("laplace:epsilon=2,clip=10")
    _, events = rule.release(document_cells([[1, 2, 3]], SEPARATOR, 64), 64)
    (event,) = events
    assert isinstance(event, LaplaceEvent)
    assert event.scale >= event.sensitivity / 2
    assert event.sensitivity == 10.0
    assert accountant.price(events, delta=1e-6) == pytest.approx(2.0, rel=0.02)


def test_one_document_more_changes_the_sums_by_the_clip_at_most() -> None:
    """With noise from one seed in both, what differs is the document; lifted above zero by a large neighbour."""
    rule = release_rule("laplace:epsilon=1000,clip=10")
    rest = [list(range(1, 60)) for _ in range(1000)]
    added = released(rule, [*rest, [7, 8] * 500]) - released(rule, rest)
    assert 9.9 < np.abs(added).sum() <= 10.0
    unclipped = released(ReleaseRule("exact"), [*rest, [7, 8] * 500]) - released(ReleaseRule("exact"), rest)
    assert np.abs(unclipped).sum() == 1000.0


def test_noise_reaches_cells_that_no_document_has() -> None:
    noisy = released(release_rule("laplace:epsilon=1,clip=10"), [[1, 2, 3]])
    exact = released(ReleaseRule("exact"), [[1, 2, 3]])
    assert (exact > 0).sum() == 3
    assert (noisy[exact == 0] > noisy.min()).sum() > 20
    assert (noisy > 0).all()


def test_noise_is_drawn_anew_each_time() -> None:
    rule = release_rule("laplace:epsilon=1,clip=10")
    first, second = (rule.release(document_cells([[1, 2, 3]], SEPARATOR, 64), 64)[0].counts for _ in range(2))
    assert not np.array_equal(first, second)
