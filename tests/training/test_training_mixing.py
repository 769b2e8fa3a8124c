"""Each stream's share is the same in every round, and the order is a function of the seed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice

import numpy as np
import pytest

from quiltwork.errors import InvalidOption
from quiltwork.training.mixing import mixed


def numbered(stream: int) -> Iterator[np.ndarray]:
    place = 0
    while True:
        yield np.array([stream, place])
        place += 1


def taken(streams: int, count: int, seed: int) -> list[tuple[int, int]]:
    starts = [partial(numbered, i) for i in range(streams)]
    return [(int(block[0]), int(block[1])) for block in islice(mixed(starts, seed), count)]


def test_every_round_has_one_block_of_each_stream() -> None:
    found = taken(3, 30, seed=5)
    for number in range(10):
        assert sorted(found[3 * number : 3 * number + 3]) == [(0, number), (1, number), (2, number)]


def test_the_order_within_rounds_changes_and_is_reproducible() -> None:
    orders = {tuple(s for s, _ in taken(3, 60, seed=0)[3 * n : 3 * n + 3]) for n in range(20)}
    assert len(orders) == 6
    assert taken(3, 60, seed=0) == taken(3, 60, seed=0) != taken(3, 60, seed=1)


def test_no_stream_is_refused() -> None:
    with pytest.raises(InvalidOption, match="nothing to mix"):
        mixed([], 0)
