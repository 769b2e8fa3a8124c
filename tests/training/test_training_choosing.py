"""Choosing stand-ins, against brute force over all sets and numpy's own determinants."""

from __future__ import annotations

import hashlib
from itertools import combinations

import numpy as np
import pytest

from quiltwork.errors import InvalidOption
from quiltwork.evidence.bigrams import cell
from quiltwork.training.choosing import (
    DIMENSIONS,
    SHORTLIST,
    best,
    bigram_vectors,
    diverse,
    document_number,
    greedy_map,
)


def kernel(size: int, rank: int, seed: int) -> np.ndarray:
    factor = np.random.default_rng(seed).standard_normal((size, rank))
    return factor @ factor.T


def log_det(matrix: np.ndarray, chosen: list[int]) -> float:
    sign, value = np.linalg.slogdet(matrix[np.ix_(chosen, chosen)])
    return float(value) if sign > 0 else -np.inf


def greedily(matrix: np.ndarray, count: int) -> list[int]:
    """The greedy rule as it is stated: try every document, keep the one with the largest determinant."""
    chosen: list[int] = []
    while len(chosen) < count:
        rest = [i for i in range(len(matrix)) if i not in chosen]
        chosen.append(max(rest, key=lambda i: log_det(matrix, [*chosen, i])))
    return chosen


@pytest.mark.parametrize("seed", range(8))
def test_the_fast_update_makes_the_greedy_choices(seed: int) -> None:
    matrix = kernel(12, 12, seed)
    assert greedy_map(matrix, 7) == greedily(matrix, 7)


@pytest.mark.parametrize("seed", range(8))
def test_greedy_is_near_the_best_of_all_sets(seed: int) -> None:
    # det + identity makes log det monotone and submodular: greedy then reaches 1 - 1/e of the best (Nemhauser 1978)
    matrix = kernel(9, 9, seed) + np.eye(9)
    optimum = max(log_det(matrix, list(s)) for s in combinations(range(9), 4))
    found = log_det(matrix, greedy_map(matrix, 4))
    assert (1 - 1 / np.e) * optimum <= found <= optimum + 1e-9


def test_the_first_choices_by_relevance_alone_can_be_worse() -> None:
    matrix = np.array([[4.0, 3.99, 0.0], [3.99, 4.0, 0.0], [0.0, 0.0, 1.0]])
    assert best(np.diag(matrix), 2) == [0, 1]
    assert greedy_map(matrix, 2) == [0, 2]
    assert log_det(matrix, [0, 2]) > log_det(matrix, [0, 1])


def test_nothing_is_chosen_twice_and_no_further_than_the_rank() -> None:
    matrix = kernel(10, 3, 0)
    chosen = greedy_map(matrix, 10)
    assert len(chosen) == len(set(chosen)) == 3
    assert greedy_map(np.zeros((4, 4)), 2) == []


def test_diverse_multiplies_relevance_and_volume() -> None:
    generator = np.random.default_rng(1)
    relevance, vectors = np.exp(generator.standard_normal(11)), generator.standard_normal((11, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    matrix = relevance[:, None] * (vectors @ vectors.T) * relevance
    assert diverse(relevance, vectors, 4) == greedily(matrix, 4)


def test_diverse_chooses_on_a_shortlist() -> None:
    # one relevant direction, a hundred documents of little relevance in directions of their own
    relevance = np.concatenate([np.full(SHORTLIST * 2, 2.0), np.full(100, 1e-3)])
    vectors = np.eye(len(relevance))
    assert set(diverse(relevance, vectors, 2)) <= set(range(SHORTLIST * 2))


def test_a_relevance_that_is_not_positive_is_refused() -> None:
    with pytest.raises(InvalidOption, match="not positive"):
        diverse(np.array([1.0, 0.0]), np.eye(2), 1)
    with pytest.raises(InvalidOption, match="0 documents"):
        best(np.ones(3), 0)


def test_equals_are_chosen_in_their_order() -> None:
    assert best(np.array([1.0, 2.0, 2.0, 2.0]), 2) == [1, 2]
    assert greedy_map(np.eye(4), 3) == [0, 1, 2]


def test_vectors_count_hashed_bigrams() -> None:
    documents = [[3, 4, 3], [], [5]]
    vectors = bigram_vectors(documents, 0)
    expected = np.zeros((3, DIMENSIONS))
    for number, document in enumerate(documents):
        for pair in zip([0, *document], document, strict=False):
            expected[number, int(cell(np.array([pair[0]]), np.array([pair[1]]), DIMENSIONS)[0])] += 1
    expected[0] /= np.linalg.norm(expected[0])
    np.testing.assert_allclose(vectors, expected)
    assert not vectors[1].any()


def test_a_document_s_number_is_the_head_of_its_digest() -> None:
    bits = "".join(f"{byte:08b}" for byte in hashlib.sha256(b"a rose").digest())
    number = document_number("a rose")
    assert number == int(bits[:53], 2)
    assert int(number) == number < 2**53
