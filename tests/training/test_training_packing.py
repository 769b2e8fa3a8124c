"""Packing against a plain list, the shuffle against its distribution, and resuming against not stopping."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from quiltwork.errors import FragmentError, InvalidOption
from quiltwork.training.packing import epochs, pack, shuffled, skip

SEPARATOR = 99
documents_of_tokens = st.lists(st.lists(st.integers(0, 50), max_size=12), max_size=12)


def plain_stream(documents: list[list[int]]) -> list[int]:
    return [token for document in documents if document for token in [SEPARATOR, *document]]


def as_lists(blocks: Iterator[np.ndarray]) -> list[list[int]]:
    return [block.tolist() for block in blocks]


def numbered(number: int) -> list[np.ndarray]:
    return [np.array([i]) for i in range(number)]


# pack ------------------------------


@given(documents_of_tokens, st.integers(2, 20))
def test_blocks_are_the_stream_cut(documents: list[list[int]], length: int) -> None:
    stream = plain_stream(documents)
    blocks = as_lists(pack(documents, length, SEPARATOR))
    whole = [stream[i : i + length] for i in range(0, len(stream) - length + 1, length)]
    if whole or not stream:
        assert blocks == whole
    else:
        assert blocks == [(stream * length)[:length]]


@given(documents_of_tokens, st.integers(2, 20))
def test_each_document_follows_a_separator(documents: list[list[int]], length: int) -> None:
    blocks = as_lists(pack(documents, length, SEPARATOR))
    flat = [token for block in blocks for token in block]
    kept = [document for document in documents if document]
    assert flat.count(SEPARATOR) <= max(len(kept), length)
    assert not flat or flat[0] == SEPARATOR


def test_without_separators_the_checks_would_fail() -> None:
    joined = [token for document in [[1, 2], [3]] for token in document]
    assert plain_stream([[1, 2], [3]]) != joined


def test_blocks_are_arrays_of_their_own() -> None:
    blocks = list(pack([np.arange(10)], 3, SEPARATOR))
    assert all(block.dtype == np.int64 and block.shape == (3,) and block.base is None for block in blocks)
    blocks[0][:] = -1
    assert blocks[1].tolist() == [2, 3, 4]


def test_pack_reads_documents_as_needed() -> None:
    def endless() -> Iterator[list[int]]:
        while True:
            yield [1, 2, 3]

    assert as_lists(islice(pack(endless(), 4, 0), 2)) == [[0, 1, 2, 3]] * 2


def test_a_document_of_many_blocks() -> None:
    assert as_lists(pack([list(range(1, 100))], 10, 0)) == [list(range(i, i + 10)) for i in range(0, 100, 10)]


@pytest.mark.parametrize("length", [1, 0, -3])
def test_short_blocks_are_refused_before_anything_is_read(length: int) -> None:
    with pytest.raises(InvalidOption, match="block length"):
        pack(iter(()), length, 0)


# shuffled ------------------------------


@given(st.integers(0, 40), st.integers(1, 50), st.integers(0, 5))
def test_shuffling_permutes_and_is_decided_by_the_seed(number: int, buffer: int, seed: int) -> None:
    first = as_lists(shuffled(numbered(number), buffer, seed))
    assert sorted(first) == [[i] for i in range(number)]
    assert first == as_lists(shuffled(numbered(number), buffer, seed))
    for place, [i] in enumerate(first):
        assert place >= i - (buffer - 1)


def test_a_buffer_of_one_keeps_the_order() -> None:
    assert as_lists(shuffled(numbered(5), 1, 3)) == [[i] for i in range(5)]


def test_seeds_give_other_orders() -> None:
    assert as_lists(shuffled(numbered(50), 10, 0)) != as_lists(shuffled(numbered(50), 10, 1))


@pytest.mark.parametrize("buffer", [4, 5, 100])
def test_a_buffer_of_everything_is_uniform(buffer: int) -> None:
    orders = Counter(tuple(int(b[0]) for b in shuffled(numbered(4), buffer, seed)) for seed in range(4800))
    assert len(orders) == 24
    assert stats.chisquare(list(orders.values())).pvalue > 1e-4


def test_the_check_of_uniformity_can_fail() -> None:
    orders = Counter(tuple(int(b[0]) for b in shuffled(numbered(4), 3, seed)) for seed in range(4800))
    assert len(orders) < 24


def test_the_buffer_bounds_what_is_read_ahead() -> None:
    read = []

    def blocks() -> Iterator[np.ndarray]:
        for block in numbered(100):
            read.append(block)
            yield block

    next(shuffled(blocks(), 7, 0))
    assert len(read) == 7


def test_wrong_buffers_and_seeds_are_refused() -> None:
    with pytest.raises(InvalidOption, match="shuffle buffer 0"):
        shuffled([], 0, 0)
    with pytest.raises(InvalidOption, match="seed -1"):
        shuffled([], 1, -1)


# epochs and skip ------------------------------

DOCUMENTS = [[i, i + 1, i + 2] for i in range(0, 60, 3)]


def stream(seed: int = 0, buffer: int = 8) -> Iterator[np.ndarray]:
    return epochs(lambda: iter(DOCUMENTS), length=8, separator=SEPARATOR, buffer=buffer, seed=seed)


def test_each_epoch_has_the_same_blocks_in_another_order() -> None:
    per_epoch = len(list(pack(DOCUMENTS, 8, SEPARATOR)))
    blocks = as_lists(islice(stream(), 3 * per_epoch))
    parts = [blocks[i : i + per_epoch] for i in range(0, len(blocks), per_epoch)]
    assert sorted(parts[0]) == sorted(parts[1]) == sorted(parts[2])
    assert parts[0] != parts[1] != parts[2]


def test_equal_seeds_give_equal_streams() -> None:
    assert as_lists(islice(stream(3), 50)) == as_lists(islice(stream(3), 50))
    assert as_lists(islice(stream(3), 50)) != as_lists(islice(stream(4), 50))


def test_seed_and_epoch_are_not_added_up() -> None:
    per_epoch = len(list(pack(DOCUMENTS, 8, SEPARATOR)))
    second_of_zero = as_lists(islice(skip(stream(0), per_epoch), per_epoch))
    assert second_of_zero != as_lists(islice(stream(1), per_epoch))


@given(st.integers(0, 60), st.integers(1, 20))
def test_skipping_resumes(number: int, buffer: int) -> None:
    whole = as_lists(islice(stream(1, buffer), number + 10))
    assert as_lists(islice(skip(stream(1, buffer), number), 10)) == whole[number:]


def test_a_small_fragment_still_gives_blocks() -> None:
    blocks = epochs(lambda: [[1]], length=5, separator=0, buffer=4)
    assert as_lists(islice(blocks, 2)) == [[0, 1, 0, 1, 0]] * 2


@pytest.mark.parametrize("documents", [[], [[]]])
def test_an_epoch_without_tokens_is_refused_instead_of_looping(documents: list[list[int]]) -> None:
    with pytest.raises(FragmentError, match="no tokens"):
        next(epochs(lambda: documents, length=4, separator=0))


def test_an_iterator_that_cannot_start_again_is_refused_in_the_second_epoch() -> None:
    once = iter([[1, 2, 3]])
    blocks = epochs(lambda: once, length=4, separator=0)
    next(blocks)
    with pytest.raises(FragmentError, match="epoch 1"):
        next(blocks)


def test_wrong_options_are_refused_at_once() -> None:
    for options in ({"length": 1}, {"buffer": 0}, {"seed": -1}):
        with pytest.raises(InvalidOption):
            epochs(lambda: DOCUMENTS, **({"length": 8, "separator": 0} | options))
    with pytest.raises(InvalidOption, match="skip of -1"):
        skip(stream(), -1)
