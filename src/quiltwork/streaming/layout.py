"""Where tensors lie in a safetensors file, and the bytes that say so.

A safetensors file is ``n`` (8 bytes, little-endian), ``n`` bytes of JSON, then the data. The JSON gives each tensor a
dtype, a shape and ``data_offsets = [begin, end)`` into the data. Here that header has one spelling: wider elements
first, then by name (the order of the safetensors library, which keeps all data aligned), no gaps, and spaces up to a
multiple of 8. So equal tensors make equal files.

>>> prefix = build({"a": ("F32", (2,)), "b": ("F64", ())})
>>> prefix[8:].decode().rstrip()
'{"__metadata__":{"format":"pt"},"b":{"dtype":"F64","shape":[],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Dtype = Literal["F64", "F32", "BF16", "F16"]
ITEM_BYTES: Mapping[str, int] = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
_ORDER = {dtype: place for place, dtype in enumerate(ITEM_BYTES)}


class Span(NamedTuple):
    """One tensor of a file: dtype, shape, and the bytes [begin, end) of the data that hold it."""

    dtype: Dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def data_bytes(dtype: Dtype, shape: tuple[int, ...]) -> int:
    """Size of a tensor in bytes."""
    return math.prod(shape) * ITEM_BYTES[dtype]


def layout(tensors: Mapping[str, tuple[Dtype, tuple[int, ...]]]) -> dict[str, Span]:
    """Place the tensors, given as ``{name: (dtype, shape)}``, in the order in which they lie in the file."""
    spans: dict[str, Span] = {}
    begin = 0
    for name in sorted(tensors, key=lambda name: (_ORDER[tensors[name][0]], name)):
        dtype, shape = tensors[name]
        end = begin + data_bytes(dtype, shape)
        spans[name] = Span(dtype, tuple(shape), begin, end)
        begin = end
    return spans


def build(tensors: Mapping[str, tuple[Dtype, tuple[int, ...]]]) -> bytes:
    """The bytes before the data: length, JSON, spaces up to a multiple of 8."""
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, span in layout(tensors).items():
        fields[name] = {"dtype": span.dtype, "shape": span.shape, "data_offsets": (span.begin, span.end)}
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
