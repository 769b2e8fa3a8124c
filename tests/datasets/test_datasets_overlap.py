"""Shingles against the runs of words themselves, and the keeper against brute force."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.datasets.overlap import Keeper, near, shared, shingles

few_words = st.lists(st.sampled_from("abc"), max_size=40)


def runs(text: str, width: int = 13) -> set[tuple[str, ...]]:
    """The 13-word runs themselves, without hashing."""
    words = text.split()
    width = min(width, len(words))
    return {tuple(words[i : i + width]) for i in range(len(words) - width + 1)} - {()}


def words(start: int, number: int) -> str:
    return " ".join(f"word{i}" for i in range(start, start + number))


@given(few_words, few_words)
def test_shingles_agree_with_the_runs_of_words(first: list[str], second: list[str]) -> None:
    one, two = " ".join(first), " ".join(second)
    assert len(shingles(one)) == len(runs(one))
    if min(len(first), len(second)) >= 13:
        assert len(np.intersect1d(shingles(one), shingles(two))) == len(runs(one) & runs(two))


def test_shingles_ignore_white_space_but_not_order() -> None:
    text = words(0, 30)
    assert shingles(text).tolist() == shingles(text.replace(" ", "\n\t")).tolist()
    assert not set(shingles(text)) & set(shingles(" ".join(reversed(text.split()))))
    assert len(shingles("")) == 0


def test_all_runs_of_two_words_hash_apart() -> None:
    texts = [" ".join(choice) for choice in product("ab", repeat=13)]
    assert len({int(shingles(text)[0]) for text in texts}) == 2**13


@given(st.lists(few_words, max_size=6))
def test_shared_are_the_runs_of_two_documents(documents: list[list[str]]) -> None:
    texts = {" ".join(document): shingles(" ".join(document)) for document in documents}
    counts: dict[int, int] = {}
    for found in texts.values():
        for shingle in found.tolist():
            counts[shingle] = counts.get(shingle, 0) + 1
    expected = sorted(shingle for shingle, count in counts.items() if count > 1)
    half = len(texts) // 2
    pools = [dict(list(texts.items())[:half]), dict(list(texts.items())[half:])]
    assert shared(pools).tolist() == expected
    assert shared([]).tolist() == []


@pytest.mark.parametrize(("common", "expected"), [(0, False), (5, False), (6, True), (10, True)])
def test_near_is_more_than_half(common: int, expected: bool) -> None:
    found = np.arange(10, dtype=np.uint64)
    assert near(found, np.arange(common, dtype=np.uint64)) == expected


places = st.tuples(st.sampled_from("ab"), st.sampled_from(["train", "test"]))


@given(st.lists(st.tuples(places, st.sets(st.integers(0, 12), min_size=1)), max_size=8), places)
def test_the_keeper_agrees_with_brute_force(kept: list, place: tuple[str, str]) -> None:
    keeper = Keeper()
    for other, found in kept:
        keeper.add([np.array(sorted(found), dtype=np.uint64)], other)
    elsewhere = set().union(*(found for other, found in kept if other != place))
    for candidate in ({0, 1, 2}, {3, 4}, set(range(13))):
        pool = {"document": np.array(sorted(candidate), dtype=np.uint64)}
        stays = 2 * len(candidate & elsewhere) <= len(candidate)
        assert list(keeper.apart(pool, place)) == ["document"] * stays


def test_a_keeper_that_forgets_other_places_would_fail_the_check() -> None:
    keeper = Keeper()
    found = np.arange(4, dtype=np.uint64)
    keeper.add([found], ("a", "train"))
    keeper.add([found], ("b", "train"))
    assert list(keeper.apart({"d": found}, ("b", "train"))) == []
    keeper.places = dict.fromkeys(found.tolist(), ("b", "train"))  # only the last place remembered
    assert list(keeper.apart({"d": found}, ("b", "train"))) == ["d"]
