"""Identifiability and leak statements against exhaustive search and enumeration."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings, strategies

from quiltwork.session.split.identifiable import identifiable
from quiltwork.session.split.program_leak import leaks, shares
from quiltwork.session.split.programs import Fold, comparison, folded, lookup, parity, rules, tabulated, total


def all_maps(table: np.ndarray) -> list[tuple[tuple[int, ...], ...]]:
    """Every family of maps, permutations or not, that leaves a table as it is."""
    maps = [list(itertools.product(range(size), repeat=size)) for size in table.shape]
    return [found for found in itertools.product(*maps) if (table[np.ix_(*map(list, found))] == table).all()]


@settings(max_examples=40, deadline=None)
@given(strategies.integers(0, 2**31), strategies.sampled_from([(2, 2), (2, 3), (3, 3), (2, 2, 2), (3, 2, 2)]))
def test_what_is_left_open_is_what_an_exhaustive_search_finds(seed: int, sizes: tuple[int, ...]) -> None:
    table = np.random.default_rng(seed).integers(0, 3, sizes)
    found, every = identifiable(lookup(table)), all_maps(table)
    assert found.complete
    assert found.settled == (len(every) == 1)
    assert set(found.relabelled) <= set(every)
    if not any(found.merged):
        identity = tuple(tuple(range(size)) for size in sizes)
        assert {identity, *found.relabelled} == set(every)


@pytest.mark.parametrize(
    ("program", "settled", "others"),
    [
        (total([10, 10]), True, 0),
        (total([10, 10, 10]), True, 0),
        (total([10, 10], modulus=10), False, 9),
        (comparison(10), True, 0),
        (parity(3), False, 3),
        (rules([2, 2], [({0: [1], 1: [1]}, "both")], "not both"), True, 0),
        (tabulated(lambda a, b: a * b, [4, 4]), True, 0),
    ],
    ids=["sum", "sum of three", "sum modulo 10", "comparison", "parity", "conjunction", "product"],
)
def test_known_programs(program: Fold, settled: bool, others: int) -> None:
    found = identifiable(program)
    assert (found.settled, len(found.relabelled), found.complete) == (settled, others, True)


def test_shifts_of_a_remainder_are_all_its_relabellings() -> None:
    shifts = {(tuple((k + c) % 10 for k in range(10)), tuple((k - c) % 10 for k in range(10))) for c in range(1, 10)}
    assert set(identifiable(total([10, 10], modulus=10)).relabelled) == shifts


def test_symbols_that_nothing_tells_apart_are_named() -> None:
    even = tabulated(lambda a, b: (a + b) % 2, [4, 2])
    found = identifiable(even)
    assert found.merged == (((0, 2), (1, 3)), ())
    assert found.relabelled == (((1, 0, 1, 0), (1, 0)),)
    assert "of operand 0, 0, 2; 1, 3" in str(found)


def test_a_search_that_is_cut_short_says_so() -> None:
    large = identifiable(total([10] * 8))
    assert not large.settled
    assert "too large" in str(large)
    # whether two symbols are the same: 8! relabellings, more than are listed
    many = identifiable(folded([8, 8], 0, lambda z, i, k: k if i == 0 else int(z == k)))
    assert not many.complete
    assert len(many.relabelled) > 0
    assert "cut short" in str(many)


def enumerated(f: Callable[..., int], sizes: tuple[int, ...], operand: int) -> tuple[float, float, int]:
    """Bits of the label, bits of the others' symbols, and number of patterns, from the list of all tuples."""
    cells = list(itertools.product(*map(range, sizes)))
    support = defaultdict(set)
    for cell in cells:
        support[f(*cell)].add(cell[operand])
    pattern = {cell: frozenset(support[f(*cell)]) for cell in cells}

    def entropy(things: list[object]) -> float:
        share = np.array(list(Counter(things).values())) / len(things)
        return float(-(share * np.log2(share)).sum())

    rest = {cell: cell[:operand] + cell[operand + 1 :] for cell in cells}
    known = [(pattern[c], c[operand]) for c in cells]
    joint = [(pattern[c], c[operand], rest[c]) for c in cells]
    told = entropy(list(rest.values())) - (entropy(joint) - entropy(known))
    return entropy(list(pattern.values())), told, len(set(pattern.values()))


@pytest.mark.parametrize(
    ("program", "f"),
    [
        (total([10, 10]), lambda a, b: a + b),
        (total([4, 3, 5]), lambda a, b, c: a + b + c),
        (total([10, 10], modulus=10), lambda a, b: (a + b) % 10),
        (comparison(6), lambda a, b: (a > b) - (a < b)),
        (tabulated(lambda a, b: a * b, [4, 5]), lambda a, b: a * b),
    ],
    ids=["sum", "sum of three", "sum modulo 10", "comparison", "product"],
)
def test_leaks_are_those_of_the_list_of_all_tuples(program: Fold, f: Callable[..., int]) -> None:
    for leak in leaks(program):
        label, others, patterns = enumerated(f, program.sizes, leak.operand)
        assert leak.label_bits == pytest.approx(label, abs=1e-9)
        assert leak.others_bits == pytest.approx(others, abs=1e-9)
        assert len(leak.told) == patterns


def test_a_sum_of_two_tells_everything_by_its_zeros_and_a_remainder_nothing() -> None:
    for leak in leaks(total([10, 10])):
        assert leak.label_bits == pytest.approx(leak.label_entropy)
        assert leak.others_bits == pytest.approx(np.log2(10))
    for leak in leaks(total([10, 10], modulus=10)):
        assert (leak.label_bits, leak.others_bits) == (pytest.approx(0, abs=1e-9), pytest.approx(0, abs=1e-9))


def test_shares_of_tuples() -> None:
    np.testing.assert_allclose(shares(total([2, 3]), 0), np.array([[1, 1, 1, 0], [0, 1, 1, 1]]) / 3)


def test_programs_of_very_many_operands_are_judged_without_overflow() -> None:
    large = total([10] * 400, modulus=10)
    assert large.cells == 10**400
    assert not identifiable(large).complete
    assert leaks(large)[399].others_entropy == pytest.approx(399 * np.log2(10))
