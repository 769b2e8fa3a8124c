"""Shamir's scheme against brute force: the field by polynomial division, secrecy by counting every outcome."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.errors import InvalidOption, TooFewShares
from quiltwork.sharing.byte_field import inverse, times
from quiltwork.sharing.shamir import combine, deal


def product(a: int, b: int) -> int:
    """By school multiplication of polynomials over two elements, then long division."""
    whole = 0
    for bit in range(8):
        if b >> bit & 1:
            whole ^= a << bit
    for bit in range(14, 7, -1):
        if whole >> bit & 1:
            whole ^= 0x11B << (bit - 8)
    return whole


ALL = np.arange(256, dtype=np.uint8)
TABLE = np.array([[product(a, b) for b in range(256)] for a in range(256)], dtype=np.uint8)


def test_every_product_of_the_field() -> None:
    np.testing.assert_array_equal(times(ALL[:, None], ALL[None, :]), TABLE)


def test_every_inverse_of_the_field() -> None:
    assert [TABLE[a, inverse(np.uint8(a))] for a in range(256)] == [0] + [1] * 255


def test_another_polynomial_of_reduction_would_show() -> None:
    assert TABLE[0x80, 2] == 0x1B
    assert times(np.uint8(0x80), np.uint8(2)) != 0x1D


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=40), st.integers(2, 5), st.integers(0, 2))
def test_every_choice_of_t_holders_gives_the_secret_back(secret: bytes, threshold: int, more: int) -> None:
    shares = deal(secret, threshold=threshold, holders=threshold + more)
    for chosen in itertools.combinations(shares, threshold):
        assert combine({x: shares[x] for x in chosen}, threshold=threshold) == secret
    assert combine(shares, threshold=threshold) == secret


def test_shares_are_values_of_the_polynomial_that_was_drawn() -> None:
    drawn = bytes([7, 200, 31, 99])
    shares = deal(b"\x05\xfe", threshold=3, holders=255, draw=lambda n: drawn[:n])
    for x, share in shares.items():
        square = product(x, x)
        assert share[0] == 5 ^ product(7, x) ^ product(31, square)
        assert share[1] == 0xFE ^ product(200, x) ^ product(99, square)


def pairs_of(secret: int, holders: tuple[int, int], seconds: range = range(256)) -> Counter[bytes]:
    """How often two of three holders see each pair of bytes, over all coefficients that can be drawn."""
    grid = np.array([[r, s] for r in range(256) for s in seconds], dtype=np.uint8)
    shares = deal(bytes([secret] * len(grid)), threshold=3, holders=5, draw=lambda n: grid.T.tobytes())
    return Counter(bytes(pair) for pair in zip(*(shares[x] for x in holders), strict=True))


@pytest.mark.parametrize("secret", [0, 1, 0x7F, 0xFF])
@pytest.mark.parametrize("holders", [(1, 2), (2, 5)])
def test_two_of_three_see_every_pair_exactly_once_whatever_the_secret(secret: int, holders: tuple[int, int]) -> None:
    seen = pairs_of(secret, holders)
    assert len(seen) == 2**16
    assert set(seen.values()) == {1}


@pytest.mark.parametrize("secret", [0, 0xA5])
@pytest.mark.parametrize("holder", [1, 255])
def test_one_of_two_sees_every_byte_exactly_once(secret: int, holder: int) -> None:
    shares = deal(bytes([secret] * 256), threshold=2, holders=255, draw=lambda n: ALL.tobytes())
    assert sorted(shares[holder]) == list(range(256))


def test_a_coefficient_that_is_never_zero_would_tell() -> None:
    # a familiar mistake: insisting on the full degree makes some pairs impossible, and rules secrets out
    assert len(pairs_of(0, (1, 2), range(1, 256))) < 2**16


def test_shares_are_fresh_each_time() -> None:
    first, second = (deal(bytes(32), threshold=2, holders=2) for _ in range(2))
    assert first[1] != second[1]
    assert first[1] != bytes(32)


def test_fewer_than_t_are_refused_and_would_give_something_else() -> None:
    shares = deal(b"sixteen byte key", threshold=3, holders=4)
    two = {1: shares[1], 2: shares[2]}
    with pytest.raises(TooFewShares, match=r"2 shares: 3 are needed.*Bring 1 more"):
        combine(two, threshold=3)
    assert combine(two, threshold=2) != b"sixteen byte key"


def test_one_false_share_changes_the_secret_unseen() -> None:
    shares = deal(b"key", threshold=2, holders=3)
    assert combine({1: b"???", 2: shares[2]}, threshold=2) != b"key"


@pytest.mark.parametrize(("threshold", "holders"), [(1, 3), (0, 3), (4, 3), (2, 256), (2, 1)])
def test_schemes_that_are_none_are_refused(threshold: int, holders: int) -> None:
    with pytest.raises(InvalidOption, match=f"{threshold} of {holders}"):
        deal(b"key", threshold=threshold, holders=holders)


@pytest.mark.parametrize("shares", [{0: b"a", 1: b"b"}, {1: b"a", 256: b"b"}, {1: b"a", 2: b"bb"}])
def test_shares_that_cannot_be_of_one_secret_are_refused(shares: dict[int, bytes]) -> None:
    with pytest.raises(InvalidOption, match="the shares"):
        combine(shares, threshold=2)


def test_an_empty_secret_is_refused() -> None:
    with pytest.raises(InvalidOption, match="empty"):
        deal(b"", threshold=2, holders=2)
