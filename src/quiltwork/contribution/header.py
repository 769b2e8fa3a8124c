"""The safetensors header: parsed without trust, written with one spelling.

A safetensors file is ``n`` (8 bytes, little-endian), ``n`` bytes of JSON, then the data. The JSON gives
each tensor a dtype, a shape and ``data_offsets = [begin, end)`` into the data. Sound means::

    8 + n <= size,  n <= 16 MiB                  checked before n bytes are read
    end - begin == product(shape) * itemsize     for each tensor
    sorted by begin: 0, then each where the last ended, then the end of the file

Canonical means more: the header is what `build` makes of names, dtypes and shapes. Those are in the
manifest, so a canonical header adds nothing to what the manifest declares: no metadata, gap or ordering in
which to carry a message. The order is that of the safetensors library (wider elements first, then by name),
which keeps all data aligned.

>>> prefix = build({"a": ("F32", (2,)), "b": ("F64", ())})
>>> prefix[8:].decode().rstrip()
'{"__metadata__":{"format":"pt"},"b":{"dtype":"F64","shape":[],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}'
>>> parse(prefix[8:], data_bytes=16, where="x.safetensors")["a"]
Span(dtype='F32', shape=(2,), begin=8, end=16)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from quiltwork.contribution.canonical import decode, shown
from quiltwork.errors import MalformedContribution
from quiltwork.streaming.layout import ITEM_BYTES, Dtype, Span, build, data_bytes, layout

__all__ = ["ITEM_BYTES", "MAX_BYTES", "MAX_RANK", "Span", "build", "data_bytes", "layout", "length", "parse"]

MAX_BYTES = 16 * 2**20
MAX_RANK = 8
_MOST_VALUES = 2**18


def length(first: bytes, size: int, where: str) -> int:
    """Read ``n`` from the first 8 bytes of a file of ``size`` bytes, or refuse before allocating."""
    if len(first) < 8:
        raise _refusal(where, f"{size} bytes are too few for a safetensors file")
    n = int.from_bytes(first[:8], "little")
    if n > MAX_BYTES:
        raise _refusal(where, f"its header claims {n} bytes, and the limit is {MAX_BYTES}")
    if 8 + n > size:
        raise _refusal(where, f"its header claims {n} bytes, and the file holds {size}")
    return n


def parse(text: bytes, data_bytes: int, where: str) -> dict[str, Span]:
    """Read a header and check that its tensors fill the data exactly.

    Args:
        text: the JSON, with any padding.
        data_bytes: size of the data after it.
        where: the file's name, for the message.

    Raises:
        MalformedContribution: any rule of the module's docstring is broken; the tensor is named.
    """
    fields = decode(text, f"header of {where}", most_values=_MOST_VALUES)
    if not isinstance(fields, dict):
        raise _refusal(where, "its header is not a JSON object")
    _check_metadata(fields.pop("__metadata__", {}), where)
    spans = {name: _span(name, entry, where) for name, entry in fields.items()}
    _require_gapless(spans, data_bytes, where)
    return spans


def _refusal(where: str, why: str) -> MalformedContribution:
    mend = "The party must write the contribution again with quiltwork."
    return MalformedContribution(where, why=why, mend=mend)


def _check_metadata(metadata: object, where: str) -> None:
    if not isinstance(metadata, dict):
        raise _refusal(where, "'__metadata__' is not a JSON object")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise _refusal(where, f"'__metadata__' holds a value that is not a string, under {shown(key)}")


def _span(name: str, entry: object, where: str) -> Span:
    what = f"tensor {shown(name)} in {where}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _refusal(what, "its header entry must hold exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise _refusal(what, f"dtype {shown(dtype)} is not one of {', '.join(ITEM_BYTES)}")
    if not _counts(shape, at_least=1) or len(shape) > MAX_RANK:
        raise _refusal(what, f"shape must be at most {MAX_RANK} positive integers")
    if not _counts(offsets, at_least=0) or len(offsets) != 2:
        raise _refusal(what, "data_offsets must be two integers from zero up")
    span = Span(cast("Dtype", dtype), tuple(shape), *offsets)
    if span.end - span.begin != data_bytes(span.dtype, span.shape):
        raise _refusal(what, f"data_offsets {offsets} do not fit shape {shape} of {dtype}")
    return span


def _counts(values: object, at_least: int) -> bool:
    # a bool is an int to Python, not to the format
    return isinstance(values, list) and all(type(value) is int and value >= at_least for value in values)


def _require_gapless(spans: Mapping[str, Span], data_bytes: int, where: str) -> None:
    place = 0
    for name, span in sorted(spans.items(), key=lambda item: item[1].begin):
        if span.begin != place:
            relation = "overlaps the one before it" if span.begin < place else "leaves a gap before it"
            raise _refusal(f"tensor {shown(name)} in {where}", f"it begins at {span.begin} and {relation}")
        place = span.end
    if place != data_bytes:
        raise _refusal(where, f"its tensors cover {place} bytes, and {data_bytes} follow the header")
