"""Documents of tokens to blocks of one length, and blocks to an endless, reproducible stream.

With separator s and documents d_1, d_2, ... the token stream is

    s d_1 s d_2 s d_3 ...

cut every ``length`` tokens: no padding, no masks, each token once. Each document's first token is thereby
predicted from the separator, as at the start of a generation. The tail that does not fill a block is dropped;
only if there is no full block at all, the stream is repeated until it fills one.

Order is a function of seeds. Epoch e passes the blocks through a buffer of B places: when it is full, a block
drawn from SeedSequence((seed, e)) leaves and the next one enters. B = 1 keeps the order; with B at least the
number of blocks all orders are equally likely; in between, a block comes B - 1 places early at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, islice

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import FragmentError, InvalidOption

Block = NDArray[np.int64]


def pack(documents: Iterable[Sequence[int]], length: int, separator: int) -> Iterator[Block]:
    """Cut documents to blocks.

    Args:
        documents: token ids of each document; empty ones are skipped.
        length: tokens in a block, at least 2 (one to see, one to predict).
        separator: token id set before each document, usually the tokenizer's end of text.

    Yields:
        int64 [length], each an array of its own.

    Raises:
        InvalidOption: the length is below 2.

    >>> [block.tolist() for block in pack([[1, 2, 3], [4], [5, 6]], length=3, separator=0)]
    [[0, 1, 2], [3, 0, 4], [0, 5, 6]]
    >>> [block.tolist() for block in pack([[7]], length=5, separator=0)]
    [[0, 7, 0, 7, 0]]
    """
    if length < 2:
        raise InvalidOption(
            f"block length {length}", why="a block sees one token and predicts one", mend="Give 2 or more."
        )
    return _blocks(documents, length, separator)


def _blocks(documents: Iterable[Sequence[int]], length: int, separator: int) -> Iterator[Block]:
    held = np.empty(0, dtype=np.int64)
    emitted = False
    for document in documents:
        if len(document):
            held = np.concatenate([held, [separator], np.asarray(document, dtype=np.int64)])
        full = len(held) - len(held) % length
        for start in range(0, full, length):
            emitted = True
            yield held[start : start + length].copy()
        held = held[full:]
    if len(held) and not emitted:
        yield np.resize(held, length)


def shuffled(blocks: Iterable[Block], buffer: int, seed: int | Sequence[int]) -> Iterator[Block]:
    """The same blocks in an order decided by the seed, with ``buffer`` of them in memory.

    Raises:
        InvalidOption: the buffer is below 1 or a seed is negative.

    >>> blocks = pack([[1, 2, 3, 4, 5]], length=2, separator=0)
    >>> [block.tolist() for block in shuffled(blocks, buffer=1, seed=0)]
    [[0, 1], [2, 3], [4, 5]]
    """
    if buffer < 1:
        raise InvalidOption(f"shuffle buffer {buffer}", why="it holds at least one block", mend="Give 1 or more.")
    if np.any(np.asarray(seed) < 0):
        raise InvalidOption(f"seed {seed}", why="seeds are not negative", mend="Give 0 or more.")
    return _exchange(blocks, buffer, np.random.default_rng(seed))


def _exchange(blocks: Iterable[Block], buffer: int, generator: np.random.Generator) -> Iterator[Block]:
    held: list[Block] = []
    for block in blocks:
        held.append(block)
        if len(held) == buffer:
            place = int(generator.integers(buffer))
            held[place], held[-1] = held[-1], held[place]
            yield held.pop()
    for place in generator.permutation(len(held)):
        yield held[place]


def epochs(
    make_documents: Callable[[], Iterable[Sequence[int]]],
    *,
    length: int,
    separator: int,
    buffer: int = 1024,
    seed: int = 0,
) -> Iterator[Block]:
    """Blocks without end: the documents again each epoch, in another order; equal seeds give equal blocks.

    Args:
        make_documents: called once an epoch; gives the documents from the first.
        length: as :func:`pack`.
        separator: as :func:`pack`.
        buffer: as :func:`shuffled`.
        seed: with the epoch's number, decides the order.

    Raises:
        InvalidOption: as :func:`pack` and :func:`shuffled`.
        FragmentError: an epoch has no tokens.
    """
    shuffled(pack((), length, separator), buffer, seed)  # refuses wrong options now rather than at the first block
    return _epochs(make_documents, length, separator, buffer, seed)


def _epochs(
    make_documents: Callable[[], Iterable[Sequence[int]]], length: int, separator: int, buffer: int, seed: int
) -> Iterator[Block]:
    for epoch in count():
        empty = True
        for block in shuffled(pack(make_documents(), length, separator), buffer, (seed, epoch)):
            empty = False
            yield block
        if empty:
            raise FragmentError(
                f"epoch {epoch}",
                why="its documents hold no tokens",
                mend="Add documents or lower the held-out share.",
            )


def skip(blocks: Iterator[Block], number: int) -> Iterator[Block]:
    """The stream after its first ``number`` blocks: to resume, build the stream anew and skip what was used.

    The skipped blocks are read and packed again, nothing is kept of them.

    Raises:
        InvalidOption: the number is negative.

    >>> stream = epochs(lambda: [[1, 2, 3]], length=2, separator=0, buffer=1)
    >>> [block.tolist() for block in islice(skip(stream, 1), 2)]
    [[2, 3], [0, 1]]
    """
    if number < 0:
        raise InvalidOption(f"skip of {number} blocks", why="it cannot be negative", mend="Give 0 or more.")
    return islice(blocks, number, None)
