"""The hash of a triple against integers of any size, and the triples of a document."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quiltwork.errors import InvalidOption
from quiltwork.evidence import bigrams
from quiltwork.evidence.trigrams import cell, document_cells

A, B, C = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xC4CEB9FE1A85EC53
SEPARATOR = 0
Array = NDArray[np.int64]
tokens = st.integers(0, 2**31 - 1)
powers = st.integers(1, 24).map(lambda bits: 2**bits)


def reference(before: int, previous: int, current: int, cells: int) -> int:
    return ((before * C + previous * A + current * B) % 2**64 >> 33) % cells


@given(st.lists(st.tuples(tokens, tokens, tokens), min_size=1, max_size=30), powers)
def test_numpy_and_torch_give_what_integers_of_any_size_give(triples: list[tuple[int, int, int]], cells: int) -> None:
    expected = [reference(*triple, cells) for triple in triples]
    columns = [np.array(column, dtype=np.int64) for column in zip(*triples, strict=True)]
    assert cell(*columns, cells).tolist() == expected
    assert cell(*torch.tensor(triples).T, cells).tolist() == expected


@pytest.mark.parametrize(
    "broken",
    [
        lambda x, y, z, m: cell(y, x, z, m),
        lambda x, y, z, m: cell(x * 0, y, z, m),
        lambda x, y, z, m: bigrams.cell(y, z, m),
    ],
)
def test_negative_control_other_hashes_disagree(broken: Callable[[Array, Array, Array, int], Array]) -> None:
    triples = np.array([(i, 7 * i + 3, 5 * i + 1) for i in range(1, 50)])
    found = broken(*triples.T, 2**16)
    assert sum(int(one) != reference(*map(int, t), 2**16) for one, t in zip(found, triples, strict=True)) > 40


@given(st.lists(st.lists(st.integers(0, 60), max_size=12), max_size=8), st.integers(0, 60), powers)
def test_a_document_has_as_many_cells_as_tokens(documents: list[list[int]], separator: int, cells: int) -> None:
    expected = []
    for document in documents:
        run = [separator, separator, *document]
        if document:
            expected.append([reference(*run[i : i + 3], cells) for i in range(len(document))])
    assert [found.tolist() for found in document_cells(documents, separator, cells)] == expected


def test_triples_spread_over_the_cells() -> None:
    """All triples of 40 tokens in 1000 cells or so: a random function would put 62.5 in each, with deviation 8."""
    grid = [axis.ravel() for axis in np.meshgrid(*[np.arange(40)] * 3)]
    load = np.bincount(cell(*grid, 1024), minlength=1024)
    assert load.min() > 0
    assert np.std(load) < 16


def test_other_numbers_of_cells_are_refused() -> None:
    with pytest.raises(InvalidOption, match="power of two"):
        list(document_cells([[1, 2]], SEPARATOR, 1000))
