"""Frames against bytes written by hand, and against anything that somebody could do to them."""

from __future__ import annotations

import hashlib
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from quiltwork.errors import AlteredFrame, InvalidOption
from quiltwork.session.frames import (
    MOST_BYTES,
    OVERHEAD,
    Kind,
    Message,
    Opener,
    Schema,
    Sealer,
    Spec,
    frame_bytes,
    largest_frame,
)

KEY, OTHER = bytes(range(32)), bytes(32)
DTYPES = ("float32", "float64", "int8", "int64", "uint8", "uint64")
EVERY_ARRAY = st.sampled_from(DTYPES).flatmap(
    lambda name: arrays(np.dtype(name), array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
)
ONE: Schema = {Kind.ACTIVATION: Spec("float32", (None, 2), most=8), Kind.DONE: Spec()}
SAID = Message(Kind.ACTIVATION, 7, np.array([[1, -2], [0.5, np.inf]], dtype=np.float32))


def declared(array: NDArray[Any]) -> Schema:
    return {Kind.LOCAL: Spec(array.dtype.name, (None,) * array.ndim, most=4)}


def by_hand(
    *,
    magic: bytes = b"QW",
    version: int = 1,
    kind: int = Kind.ACTIVATION,
    sequence: int = 0,
    round_: int = 7,
    dtype: int = 1,
    shape: tuple[int, ...] = (2, 2),
    rank: int | None = None,
    data: bytes = struct.pack("<4f", 1, -2, 0.5, float("inf")),
    key: bytes = KEY,
) -> bytes:
    """A frame after the table in the module's docstring, rightly tagged."""
    sizes = b"".join(size.to_bytes(4, "little") for size in (*shape, *(0,) * (4 - len(shape))))
    head = magic + bytes([version, kind]) + sequence.to_bytes(8, "little") + round_.to_bytes(8, "little")
    body = head + bytes([dtype, len(shape) if rank is None else rank]) + sizes + data
    return body + hashlib.blake2b(body, digest_size=16, key=key).digest()


def test_the_layout_is_the_table() -> None:
    assert Sealer(KEY).seal(SAID) == by_hand()
    empty = by_hand(kind=Kind.DONE, dtype=0, shape=(), data=b"")
    assert Sealer(KEY).seal(Message(Kind.DONE, 7)) == empty
    assert len(empty) == OVERHEAD == 54


@given(EVERY_ARRAY, st.integers(0, 2**64 - 1))
def test_round_trip(array: NDArray[Any], round_: int) -> None:
    frame = Sealer(KEY).seal(Message(Kind.LOCAL, round_, array))
    found = Opener(KEY, declared(array)).open(frame)
    assert len(frame) == frame_bytes(array.dtype.name, array.shape)
    assert (found.kind, found.round) == (Kind.LOCAL, round_)
    assert found.array is not None
    assert (found.array.dtype, found.array.shape) == (array.dtype, array.shape)
    assert found.array.tobytes() == array.tobytes()


@given(EVERY_ARRAY.filter(lambda array: array.ndim > 1))
def test_neither_memory_order_nor_byte_order_crosses(array: NDArray[Any]) -> None:
    plain = Sealer(KEY).seal(Message(Kind.LOCAL, 0, array))
    assert Sealer(KEY).seal(Message(Kind.LOCAL, 0, np.asfortranarray(array))) == plain
    assert Sealer(KEY).seal(Message(Kind.LOCAL, 0, array.astype(array.dtype.newbyteorder(">")))) == plain


def test_every_changed_byte_is_refused() -> None:
    frame = Sealer(KEY).seal(SAID)
    for place in range(len(frame)):
        for change in (1, 0x80, 0xFF):
            changed = bytearray(frame)
            changed[place] ^= change
            with pytest.raises(AlteredFrame, match="tag"):
                Opener(KEY, ONE).open(bytes(changed))
    # negative control: unchanged it opens
    assert Opener(KEY, ONE).open(frame).round == 7


def test_every_other_length_is_refused() -> None:
    frame = Sealer(KEY).seal(SAID)
    for end in range(len(frame)):
        with pytest.raises(AlteredFrame):
            Opener(KEY, ONE).open(frame[:end])
    with pytest.raises(AlteredFrame):
        Opener(KEY, ONE).open(frame + b"\0")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(junk: bytes) -> None:
    with pytest.raises(AlteredFrame):
        Opener(KEY, ONE).open(junk)


@settings(max_examples=300)
@given(st.binary(max_size=120), st.booleans())
def test_any_bytes_under_a_right_tag_are_a_message_or_refused(body: bytes, headed: bool) -> None:
    """Whoever has the key can send anything; it must not end the receiver in another way."""
    body = b"QW\x01\x03" + bytes(8) + body if headed else body
    frame = body + hashlib.blake2b(body, digest_size=16, key=KEY).digest()
    try:
        found = Opener(KEY, ONE).open(frame)
    except AlteredFrame:
        return
    assert found.array is not None
    assert found.array.shape[1] == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"magic": b"QX"}, "this installation has not"),
        ({"version": 2}, "version 2"),
        ({"kind": 0}, "kind 0"),
        ({"kind": 200}, "kind 200"),
        ({"kind": Kind.STATE}, "does not carry that kind"),
        ({"sequence": 1}, "0 is due"),
        ({"dtype": 2}, "dtype code is 2"),
        ({"dtype": 0}, "dtype code is 0"),
        ({"dtype": 99}, "dtype code is 99"),
        ({"shape": (4,)}, "shape"),
        ({"shape": (1, 2)}, "shape"),
        ({"shape": (2, 3), "data": bytes(24)}, "is declared"),
        ({"shape": (9, 2), "data": bytes(72)}, "is declared"),
        ({"rank": 3}, "shape"),
        ({"rank": 250}, "shape"),
        ({"data": b""}, "0 bytes"),
        ({"kind": Kind.DONE}, "dtype code"),
        ({"kind": Kind.DONE, "dtype": 0, "shape": ()}, "none is declared"),
        ({"key": OTHER}, "tag"),
    ],
)
def test_a_tagged_frame_that_was_not_declared(change: dict[str, Any], why: str) -> None:
    opener = Opener(KEY, ONE)
    with pytest.raises(AlteredFrame, match=why):
        opener.open(by_hand(**change))
    # a refused frame does not count: the right one still opens
    assert opener.open(by_hand()).round == 7


def test_memory_is_bounded_by_the_frame_whatever_it_announces() -> None:
    """64 bytes that announce 2**96 numbers, where the declaration leaves the size open as far as it goes."""
    vast = {Kind.ACTIVATION: Spec("float64", (None, None, None), most=2**32 - 1)}
    frame = by_hand(dtype=2, shape=(2**32 - 1,) * 3, data=bytes(8))
    tracemalloc.start()
    try:
        with pytest.raises(AlteredFrame, match="8 bytes"):
            Opener(KEY, vast).open(frame)
        assert tracemalloc.get_traced_memory()[1] < 2**18
    finally:
        tracemalloc.stop()


def test_the_largest_frame_opens_and_one_more_row_does_not() -> None:
    most = by_hand(shape=(8, 2), data=bytes(64))
    assert len(most) == largest_frame(ONE)
    Opener(KEY, ONE).open(most)
    with pytest.raises(AlteredFrame):
        Opener(KEY, ONE).open(by_hand(shape=(9, 2), data=bytes(72)))
    assert largest_frame({}) == OVERHEAD
    assert largest_frame({Kind.LOCAL: Spec("int8", (None, None), most=2**31)}) == OVERHEAD + MOST_BYTES


@given(st.permutations(range(4)), st.integers(0, 3))
def test_only_the_order_of_sending_opens(order: list[int], repeated: int) -> None:
    sealer, opener = Sealer(KEY), Opener(KEY, ONE)
    frames = [sealer.seal(Message(Kind.DONE, n)) for n in range(4)]
    due = 0
    for number in [*order, repeated]:
        if number == due:
            assert opener.open(frames[number]).round == due
            due += 1
        else:
            with pytest.raises(AlteredFrame, match="sequence"):
                opener.open(frames[number])


@pytest.mark.parametrize(
    "array",
    [np.ones(2, np.float16), np.ones(2, bool), np.array(["words"]), np.array([object()]), np.ones((1,) * 5, np.int8)],
    ids=["half", "bool", "text", "object", "rank 5"],
)
def test_arrays_that_no_frame_carries(array: NDArray[Any]) -> None:
    sealer = Sealer(KEY)
    with pytest.raises(InvalidOption, match="dtype"):
        sealer.seal(Message(Kind.LOCAL, 0, array))
    # what was not sent takes no number
    assert Opener(KEY, ONE).open(sealer.seal(SAID)).round == 7


@pytest.mark.parametrize("key", [b"", bytes(16), bytes(33)])
def test_keys_have_32_bytes(key: bytes) -> None:
    for make in (Sealer, lambda k: Opener(k, ONE)):
        with pytest.raises(InvalidOption, match="32"):
            make(key)
