"""The header against the safetensors library, brute force, and forgers."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from quiltwork.contribution import header
from quiltwork.errors import MalformedContribution

NAMES = st.text("abcXYZ019_.-", min_size=1, max_size=12)
TYPES = st.tuples(st.sampled_from(list(header.ITEM_BYTES)), st.lists(st.integers(1, 5), max_size=4).map(tuple))
TORCH = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def text(fields: object) -> bytes:
    return json.dumps(fields).encode()


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@given(st.dictionaries(NAMES, TYPES, min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_the_safetensors_library_writes_the_same_header(types: dict[str, Any]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        save_file({n: torch.ones(s, dtype=TORCH[d]) for n, (d, s) in types.items()}, path, {"format": "pt"})
        data = path.read_bytes()
    built = header.build(types)
    assert data[: len(built)] == built
    assert len(data) == len(built) + sum(header.data_bytes(*type_) for type_ in types.values())


@given(st.dictionaries(NAMES, TYPES, max_size=8))
def test_parse_undoes_build(types: dict[str, Any]) -> None:
    prefix = header.build(types)
    total = sum(header.data_bytes(*type_) for type_ in types.values())
    n = header.length(prefix[:8], len(prefix) + total, "x")
    assert len(prefix) == 8 + n
    assert len(prefix) % 8 == 0
    assert header.parse(prefix[8:], total, "x") == header.layout(types)


@given(st.dictionaries(NAMES, TYPES, max_size=8))
def test_the_layout_tiles_the_data_and_keeps_it_aligned(types: dict[str, Any]) -> None:
    covered: list[int] = []
    for span in header.layout(types).values():
        assert span.begin % header.ITEM_BYTES[span.dtype] == 0
        assert span.end - span.begin == np.prod(span.shape, dtype=int) * header.ITEM_BYTES[span.dtype]
        covered.extend(range(span.begin, span.end))
    assert covered == list(range(len(covered)))


def test_the_library_reads_what_we_lay_out(tmp_path: Path) -> None:
    values = {"b": torch.arange(3, dtype=torch.float32), "a": torch.ones(2, 2, dtype=torch.float64)}
    types = {"a": ("F64", (2, 2)), "b": ("F32", (3,))}
    data = header.build(types) + b"".join(values[name].numpy().tobytes() for name in header.layout(types))
    (tmp_path / "x.safetensors").write_bytes(data)
    read = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(read[name], values[name]) for name in values)


@pytest.mark.parametrize(
    ("first", "size", "why"),
    [
        (b"", 0, "0 bytes are too few"),
        (b"1234567", 7, "7 bytes are too few"),
        (struct.pack("<Q", 2**64 - 1), 100, "claims 18446744073709551615 bytes, and the limit is 16777216"),
        (struct.pack("<Q", header.MAX_BYTES + 1), 2**40, "the limit is 16777216"),
        (struct.pack("<Q", 93), 100, "claims 93 bytes, and the file holds 100"),
    ],
)
def test_the_length_is_refused_before_anything_is_allocated(first: bytes, size: int, why: str) -> None:
    with pytest.raises(MalformedContribution) as caught:
        header.length(first, size, "x.safetensors")
    assert why in caught.value.why
    assert header.length(struct.pack("<Q", 92), 100, "x") == 92


HUGE = 2**62
UNSOUND = [
    (b"[]", "x", "not a JSON object"),
    (b'{"a":1,"a":1}', "header of x", "the key 'a' appears twice"),
    (text({"__metadata__": []}), "x", "'__metadata__' is not a JSON object"),
    (text({"__metadata__": {"k": 1}}), "x", "not a string, under 'k'"),
    (text({"a": 1}), "tensor 'a' in x", "exactly dtype, shape and data_offsets"),
    (text({"a": {**entry(), "extra": 1}}), "tensor 'a' in x", "exactly dtype, shape and data_offsets"),
    (text({"a": entry(dtype="I64")}), "tensor 'a' in x", "dtype 'I64' is not one of F64, F32, BF16, F16"),
    (text({"a": entry(dtype=["F32"])}), "tensor 'a' in x", "is not one of"),
    (text({"a": entry(shape=(2.0,))}), "tensor 'a' in x", "at most 8 positive integers"),
    (text({"a": entry(shape=(True, 2))}), "tensor 'a' in x", "at most 8 positive integers"),
    (text({"a": entry(shape=(-2,))}), "tensor 'a' in x", "at most 8 positive integers"),
    (text({"a": entry(shape=(0,), offsets=(0, 0))}), "tensor 'a' in x", "at most 8 positive integers"),
    (text({"a": entry(shape=(1,) * 9)}), "tensor 'a' in x", "at most 8 positive integers"),
    (text({"a": entry(shape="2")}), "tensor 'a' in x", "at most 8 positive integers"),
    (text({"a": entry(shape=(HUGE, HUGE))}), "tensor 'a' in x", "do not fit shape"),
    (text({"a": entry(offsets=(0, 8.0))}), "tensor 'a' in x", "two integers from zero up"),
    (text({"a": entry(offsets=(False, 8))}), "tensor 'a' in x", "two integers from zero up"),
    (text({"a": entry(offsets=(-8, 0))}), "tensor 'a' in x", "two integers from zero up"),
    (text({"a": entry(offsets=(0, 8, 8))}), "tensor 'a' in x", "two integers from zero up"),
    (text({"a": entry(offsets=(8, 0))}), "tensor 'a' in x", "do not fit shape [2] of F32"),
    (text({"a": entry(offsets=(0, 4))}), "tensor 'a' in x", "do not fit shape [2] of F32"),
    (text({"a": entry(), "b": entry(offsets=(4, 12))}), "tensor 'b' in x", "overlaps the one before it"),
    (text({"a": entry(), "b": entry()}), "tensor 'b' in x", "overlaps the one before it"),
    (text({"a": entry(), "b": entry(offsets=(9, 17))}), "tensor 'b' in x", "leaves a gap before it"),
    (text({"a": entry(offsets=(1, 9))}), "tensor 'a' in x", "leaves a gap before it"),
    (text({"a": entry()}), "x", "cover 8 bytes, and 16 follow"),
    (text({}), "x", "cover 0 bytes, and 16 follow"),
    (text({"\x1b[2J": 1}), r"tensor '\x1b[2J' in x", "exactly"),
]


@pytest.mark.parametrize(("data", "what", "why"), UNSOUND)
def test_an_unsound_header_is_refused_by_name(data: bytes, what: str, why: str) -> None:
    with pytest.raises(MalformedContribution) as caught:
        header.parse(data, 16, "x")
    assert caught.value.what == what
    assert why in caught.value.why


def test_a_sound_header_in_another_order_is_read() -> None:
    spans = header.parse(text({"b": entry(offsets=(8, 16)), "a": entry()}), 16, "x")
    assert spans["b"] == header.Span("F32", (2,), 8, 16)


@given(st.binary(max_size=60), st.integers(0, 40))
def test_any_bytes_give_spans_or_a_refusal(data: bytes, size: int) -> None:
    try:
        header.parse(data, size, "x")
    except MalformedContribution:
        return


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-4, 2**64) | st.floats() | st.sampled_from(["F32", "F64", "BF16"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "__metadata__", "dtype", "shape", "data_offsets"]), inner)
    ),
    max_leaves=10,
)


@given(JSON, st.integers(0, 40))
def test_any_json_gives_spans_or_a_refusal(value: object, size: int) -> None:
    try:
        header.parse(text(value), size, "x")
    except MalformedContribution:
        return
