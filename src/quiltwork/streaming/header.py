"""The header of a checkpoint's safetensors file, read without trust.

A checkpoint is fetched from a hub and was written by whatever library its authors used. So any order of tensors, any
metadata and empty tensors are taken, and everything that could mislead a reader is refused, before a byte of data is
touched::

    8 + n <= size,  n <= 64 MiB                  checked before n bytes are read
    end - begin == product(shape) * itemsize     for each tensor, of a floating-point dtype
    sorted by begin: 0, then each where the last ended, then the end of the file
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from quiltwork.errors import CheckpointError
from quiltwork.streaming.layout import ITEM_BYTES, Dtype, Span, data_bytes

MAX_BYTES = 64 * 2**20
MAX_RANK = 8
_FETCH = "Fetch the checkpoint again; it may be cut short."


def read_header(path: Path) -> tuple[dict[str, Span], int]:
    """The tensors of a safetensors file, and the byte at which its data begin.

    Raises:
        CheckpointError: the file cannot be read, is cut short, its header breaks a rule of the module's docstring, or
            a tensor is not of floating point; the tensor is named.
    """
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            length = _length(file.read(8), size, path)
            text = file.read(length)
    except OSError as error:
        _refuse(f"file '{path}'", f"it cannot be read as safetensors ({error.strerror or error})")
    if len(text) != length:
        _refuse(f"file '{path}'", "it cannot be read as safetensors (it ends inside its header)")
    spans = {name: _span(name, entry, path) for name, entry in _fields(text, path).items() if name != "__metadata__"}
    _require_gapless(spans, size - 8 - length, path)
    return spans, 8 + length


def _length(first: bytes, size: int, path: Path) -> int:
    n = int.from_bytes(first, "little")
    if len(first) < 8 or 8 + n > size or n > MAX_BYTES:
        why = f"its header claims {n} bytes" if len(first) == 8 else "it is shorter than its first field"
        _refuse(f"file '{path}'", f"it cannot be read as safetensors ({why}, and the file holds {size})")
    return n


def _fields(text: bytes, path: Path) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a name stands twice in it")
        return dict(pairs)

    try:
        fields = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        reason = str(error).split("\n")[0][:200]
        _refuse(f"file '{path}'", f"it cannot be read as safetensors (its header is not sound JSON: {reason})")
    if not isinstance(fields, dict):
        _refuse(f"file '{path}'", "it cannot be read as safetensors (its header is not a JSON object)")
    return fields


def _span(name: str, entry: object, path: Path) -> Span:
    what = f"tensor {name[:200]!a} in '{path}'"
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        _refuse(what, "its header entry does not hold dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(
            what, why=f"its dtype {str(dtype)[:20]} is not a floating-point type", mend="Use an unquantised checkpoint."
        )
    if not _counts(shape) or len(shape) > MAX_RANK or not _counts(offsets) or len(offsets) != 2:
        _refuse(what, "its shape or its data_offsets are not lists of a few integers from zero up")
    span = Span(cast("Dtype", dtype), tuple(shape), *offsets)
    if span.end - span.begin != data_bytes(span.dtype, span.shape):
        _refuse(what, f"its data_offsets {offsets} do not fit its shape {shape} of {dtype}")
    return span


def _counts(values: object) -> bool:
    # a bool is an int to Python, not to the format
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _require_gapless(spans: Mapping[str, Span], data: int, path: Path) -> None:
    place = 0
    for name, span in sorted(spans.items(), key=lambda item: (item[1].begin, item[1].end)):
        if span.begin != place:
            relation = "overlaps the one before it" if span.begin < place else "leaves a gap before it"
            _refuse(f"tensor {name[:200]!a} in '{path}'", f"it begins at {span.begin} and {relation}")
        place = span.end
    if place != data:
        why = f"its tensors cover {place} bytes, and {data} follow the header"
        _refuse(f"file '{path}'", f"it cannot be read as safetensors ({why})")


def _refuse(what: str, why: str) -> NoReturn:
    raise CheckpointError(what, why=why, mend=_FETCH)
