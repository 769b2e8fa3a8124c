"""One spelling for every value, one outcome for every byte string."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.contribution.canonical import MAX_DEPTH, decode, encode, shown
from quiltwork.errors import MalformedContribution

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_decode_undoes_encode_and_the_standard_library_agrees(value: object) -> None:
    data = encode(value)
    assert decode(data, "x") == value
    assert json.loads(data) == value
    assert encode(decode(data, "x")) == data


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 9)))
def test_the_order_of_insertion_does_not_show(value: dict[str, int]) -> None:
    assert encode(value) == encode(dict(reversed(list(value.items()))))


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_refusal(data: bytes) -> None:
    try:
        decode(data, "x")
    except MalformedContribution:
        return


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "Expecting value"),
        (b"\xff{}", "not UTF-8 (byte 0)"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"a":1,"a":1}', "the key 'a' appears twice"),
        (b'{"o":{"a":1,"a":2}}', "the key 'a' appears twice"),
        (b"[NaN]", "NaN is not a JSON number"),
        (b"[-Infinity]", "-Infinity is not a JSON number"),
        (b"[1e999]", "beyond what a 64-bit float holds"),
        (b"[" + b"9" * 5000 + b"]", "does not fit 64 bits"),
        (b"[9223372036854775808]", "does not fit 64 bits"),
        (b"[-9223372036854775809]", "does not fit 64 bits"),
        (b"[" * 33 + b"]" * 33, "nests deeper than 32 levels"),
        (b"[" * 1_000_000, "nests deeper than 32 levels"),
        (b'{"a":' * 1_000_000, "nests deeper than 32 levels"),
        (b"{} {}", "Extra data"),
        (b"{'a':1}", "Expecting property name"),
        (b'"\x00"', "Invalid control character"),
    ],
)
def test_each_refusal_says_why(data: bytes, why: str) -> None:
    with pytest.raises(MalformedContribution) as caught:
        decode(data, "some.json")
    assert caught.value.what == "some.json"
    assert why in caught.value.why


def test_too_many_values_are_refused() -> None:
    data = b"[" + b"0," * 9 + b"0]"
    assert decode(data, "x", most_values=11) == [0] * 10
    with pytest.raises(MalformedContribution, match="it holds more than 10 values"):
        decode(data, "x", most_values=10)


def test_the_deepest_value_allowed_is_read() -> None:
    assert decode(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, "x")


def test_deep_nesting_is_refused_even_when_the_stack_is_nearly_used_up() -> None:
    def descend(levels: int) -> None:
        if levels:
            descend(levels - 1)
            return
        with pytest.raises(MalformedContribution, match="nests deeper"):
            decode(b"[" * 500 + b"]" * 500, "x")

    descend(sys.getrecursionlimit() // 3)


def test_encoding_refuses_what_json_cannot_say() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode([float("nan")])


@given(st.text())
def test_a_shown_name_is_printable_and_short(name: str) -> None:
    text = shown(name)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 10 * 84
