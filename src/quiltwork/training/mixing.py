"""Several streams of blocks as one, of which each stream gives the same share.

The stream goes in rounds. Each takes one block of every stream, in an order drawn from SeedSequence((seed, round)):

    n streams  ->  rounds of n blocks, one of each
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import numpy as np

from quiltwork.errors import InvalidOption
from quiltwork.training.packing import Block


def mixed(starts: Sequence[Callable[[], Iterator[Block]]], seed: int) -> Iterator[Block]:
    """One endless stream of equal parts of others.

    Args:
        starts: each starts an endless stream.
        seed: of the order within the rounds.

    Raises:
        InvalidOption: there are no streams.

    >>> from itertools import islice, repeat
    >>> ones, twos = (lambda i=i: repeat(np.array([i])) for i in (1, 2))
    >>> sorted(int(block[0]) for block in islice(mixed([ones, twos], seed=0), 6))
    [1, 1, 1, 2, 2, 2]
    """
    if not starts:
        raise InvalidOption("no streams", why="there is nothing to mix", mend="Give at least one.")
    return _rounds([start() for start in starts], seed)


def _rounds(streams: list[Iterator[Block]], seed: int) -> Iterator[Block]:
    for number in count():
        order = np.random.default_rng((seed, number)).permutation(len(streams))
        for place in order:
            yield next(streams[place])
