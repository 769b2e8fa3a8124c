"""Matching rows by id: the same case at every position, whatever the orders; refusals that name a party and a row."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.errors import FragmentError, InvalidOption, TableMismatch
from quiltwork.party.alignment import SameRows, pseudonyms, require_equal_counts

KEY = bytes(range(32))


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1, max_size=20, unique=True), st.data())
def test_every_position_is_one_case(ids: list[str], data: st.DataObject) -> None:
    rows = {party: data.draw(st.permutations(ids)) for party in ("ash", "birch", "cedar")}
    found = SameRows().positions(rows)
    cases = [[rows[p][i] for i in found[p]] for p in rows]
    assert cases == [sorted(ids)] * 3
    assert all(p.dtype == np.int64 for p in found.values())


def test_the_agreed_order_does_not_depend_on_who_else_is_there() -> None:
    rows = {"ash": ["b", "a"], "birch": ["a", "b"]}
    assert SameRows().positions(rows)["ash"].tolist() == SameRows().positions({"ash": rows["ash"]})["ash"].tolist()


@pytest.mark.parametrize(
    ("rows", "names"),
    [
        ({"ash": ["a", "b", "a"]}, ("row 3 of party 'ash'", "row 1")),
        ({"ash": ["a", ""]}, ("row 2 of party 'ash'", "empty")),
    ],
)
def test_ids_that_are_double_or_empty_are_refused(rows: dict[str, list[str]], names: tuple[str, ...]) -> None:
    with pytest.raises(FragmentError) as refusal:
        SameRows().positions(rows)
    assert all(name in str(refusal.value) for name in names)


@pytest.mark.parametrize(
    ("birch", "names"),
    [
        (["a", "sesame"], ("row 2 of party 'birch'", "'ash'")),
        (["a"], ("row 2 of party 'ash'", "'birch'", "2 rows, and 1")),
    ],
)
def test_a_case_that_one_party_lacks_is_refused_without_its_id(birch: list[str], names: tuple[str, ...]) -> None:
    with pytest.raises(TableMismatch) as refusal:
        SameRows().positions({"ash": ["a", "b"], "birch": birch})
    assert all(name in str(refusal.value) for name in names)
    assert "sesame" not in str(refusal.value)


def test_unequal_counts_are_refused_by_party() -> None:
    require_equal_counts({"ash": 3, "birch": 3})
    with pytest.raises(TableMismatch, match="party 'cedar'"):
        require_equal_counts({"ash": 3, "birch": 3, "cedar": 2})


def test_pseudonyms_are_hmac_sha_256() -> None:
    """Against the definition, RFC 2104, written out."""
    padded = KEY.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(b ^ 0x36 for b in padded) + "Müller 7".encode()).digest()
    outer = hashlib.sha256(bytes(b ^ 0x5C for b in padded) + inner).hexdigest()
    assert pseudonyms(["Müller 7"], KEY) == [outer]


def test_pseudonyms_need_the_key_and_keep_ids_apart() -> None:
    assert len(set(pseudonyms(["7", "07", "7 "], KEY))) == 3
    assert pseudonyms(["7"], KEY) != pseudonyms(["7"], KEY[::-1])
    with pytest.raises(InvalidOption, match="15 bytes"):
        pseudonyms(["7"], KEY[:15])
