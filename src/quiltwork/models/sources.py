"""Tensors that are described now and read when they are written.

A composed checkpoint is larger than any of its parts, so nothing holds all of it: a ``Source`` knows the dtype and
shape of one tensor and how to get it, and a checkpoint is a table of sources. A source gives its tensor in two ways::

    load()      a torch tensor                          for a model in memory
    pieces()    its little-endian bytes, in pieces      for a file; constant memory, and torch is not even imported

and the two agree bit for bit, since one is made of the other: of bytes where the tensor lies in a file or is a sum,
a row or a stack of such tensors, of a torch tensor where only torch can make it.

Dtypes are spelled as safetensors does: ``"F64"``, ``"F32"``, ``"F16"``, ``"BF16"``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from quiltwork.streaming.header import read_header
from quiltwork.streaming.layout import ITEM_BYTES, Dtype
from quiltwork.streaming.numbers import decode, encode
from quiltwork.streaming.place import ELEMENTS, Place
from quiltwork.streaming.sums import Term, weighted_sum

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from typing_extensions import Buffer

TORCH_NAMES: Mapping[str, str] = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""What torch and config.json call a dtype."""

Pieces: TypeAlias = "Callable[[], Iterator[Buffer]]"
"""The bytes of a tensor, ``ELEMENTS`` elements at a time; called again it begins anew."""


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """The dtype as torch has it."""
    import torch

    return getattr(torch, TORCH_NAMES[dtype])  # type: ignore[no-any-return]


def dtype_of(tensor: Tensor) -> Dtype:
    """The dtype of a floating-point torch tensor, as safetensors spells it."""
    return {name: dtype for dtype, name in TORCH_NAMES.items()}[str(tensor.dtype).removeprefix("torch.")]  # type: ignore[return-value]


@dataclass(frozen=True)
class Source:
    """One tensor: what it is, and how to get it.

    Attributes:
        dtype: its type.
        shape: its shape.
        load: returns it, on the CPU.
        place: where it lies as it is, if it does.
        stream: its bytes in pieces, where they can be had without torch; None makes them of what ``load`` returns.
        identity: the digest of its bytes where that is known before they are read; nothing derived from it has one.
    """

    dtype: Dtype
    shape: tuple[int, ...]
    load: Callable[[], Tensor]
    place: Place | None = None
    stream: Pieces | None = None
    identity: str | None = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes."""
        return self.size * ITEM_BYTES[self.dtype]

    @property
    def torch_dtype(self) -> torch.dtype:
        """Its type as torch has it."""
        return torch_dtype(self.dtype)

    def pieces(self) -> Iterator[Buffer]:
        """Its little-endian bytes in C order, ``ELEMENTS`` elements at a time; nobody may change a piece."""
        return (self.stream or self._of_load)()

    def _of_load(self) -> Iterator[Buffer]:
        import torch

        flat = self.load().detach().to("cpu", self.torch_dtype).contiguous().reshape(-1)
        for start in range(0, self.size, ELEMENTS):
            yield flat[start : start + ELEMENTS].view(torch.uint8).numpy().data

    @classmethod
    def of(cls, tensor: Tensor) -> Source:
        """A source of a tensor in memory."""
        return cls(dtype_of(tensor), tuple(tensor.shape), lambda: tensor)

    @classmethod
    def streamed(cls, dtype: Dtype, shape: tuple[int, ...], pieces: Pieces) -> Source:
        """A source of bytes; ``load`` puts them together."""
        return cls(dtype, shape, lambda: _tensor(dtype, shape, _joined(pieces())), stream=pieces)

    @classmethod
    def at(cls, place: Place, dtype: Dtype, shape: tuple[int, ...]) -> Source:
        """A source of a tensor that lies in a file."""
        return cls(
            dtype,
            shape,
            lambda: _tensor(dtype, shape, place.read()),
            place,
            lambda: iter(place.pieces(ITEM_BYTES[dtype])),
        )

    @classmethod
    def zeros(cls, dtype: Dtype, shape: tuple[int, ...]) -> Source:
        """A source of zeros."""
        count, item = math.prod(shape), ITEM_BYTES[dtype]

        def pieces() -> Iterator[Buffer]:
            return (bytes(item * min(ELEMENTS, count - start)) for start in range(0, count, ELEMENTS))

        return cls.streamed(dtype, shape, pieces)

    def derive(self, change: Callable[[Tensor], Tensor]) -> Source:
        """A source of ``change(tensor)``, which must keep shape and dtype."""
        return Source(self.dtype, self.shape, lambda: change(self.load()))

    def reshaped(self, shape: tuple[int, ...]) -> Source:
        """A source of the same elements in another shape."""
        return Source(self.dtype, shape, lambda: self.load().reshape(shape), self.place, self.stream)

    def row(self, index: int) -> Source:
        """A source of ``tensor[index]``: of a tensor that lies in a file, a place in that file.

        Raises:
            ValueError: the tensor has no such row; beyond it lie other tensors.
        """
        if not (self.shape and 0 <= index < self.shape[0]):
            raise ValueError(f"row {index} of a tensor of shape {list(self.shape)}")
        shape, nbytes = self.shape[1:], self.nbytes // self.shape[0]
        if self.place is not None:
            place = Place(self.place.path, self.place.offset + index * nbytes, nbytes)
            return Source.at(place, self.dtype, shape)
        return Source(self.dtype, shape, lambda: self.load()[index].clone())


def total(
    parts: Sequence[tuple[float, Source]],
    dtype: Dtype,
    *,
    divisor: float = 1.0,
    sum_in: Literal["F32", "F64"] = "F64",
) -> Source:
    """A source of ``sum_i w_i x_i / divisor`` of tensors of one shape, as ``streaming.sums`` adds them."""
    terms = [Term(weight, source.dtype, source.pieces) for weight, source in parts]
    return Source.streamed(dtype, parts[0][1].shape, lambda: weighted_sum(terms, dtype, divisor=divisor, sum_in=sum_in))


def clamped(source: Source) -> Source:
    """A source of ``min(tensor, 0)``."""

    def pieces() -> Iterator[Buffer]:
        return (encode(np.minimum(decode(piece, source.dtype), 0), source.dtype).data for piece in source.pieces())

    return Source.streamed(source.dtype, source.shape, pieces)


def stacked(rows: Sequence[Source]) -> Source:
    """The source of ``torch.stack(rows)``: the rows' bytes one after another. Rows must agree in dtype and shape."""
    first = rows[0]

    def pieces() -> Iterator[Buffer]:
        return _regular((piece for row in rows for piece in row.pieces()), ITEM_BYTES[first.dtype] * ELEMENTS)

    return Source.streamed(first.dtype, (len(rows), *first.shape), pieces)


def _regular(pieces: Iterable[Buffer], size: int) -> Iterator[bytes]:
    """The same bytes in pieces of ``size``, the last one as long as it comes."""
    held = bytearray()
    for piece in pieces:
        held += memoryview(piece)
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


def _joined(pieces: Iterable[Buffer]) -> bytearray:
    data = bytearray()
    for piece in pieces:
        data += memoryview(piece)
    return data


def _tensor(dtype: Dtype, shape: tuple[int, ...], data: bytearray) -> Tensor:
    import torch

    if not data:
        return torch.empty(shape, dtype=torch_dtype(dtype))
    return torch.frombuffer(data, dtype=torch_dtype(dtype)).reshape(shape)


Sources = Mapping[str, Source]


def total_size(tables: Iterable[Sources]) -> int:
    """Number of elements in all tables together."""
    return sum(source.size for table in tables for source in table.values())


def open_file(path: Path) -> dict[str, Source]:
    """The tensors of a safetensors file, none of them read.

    Raises:
        CheckpointError: the file cannot be read, is cut short, its header is unsound, or it holds a dtype that is not
            floating point.
    """
    spans, data = read_header(path)
    return {
        name: Source.at(Place(path, data + span.begin, span.end - span.begin), span.dtype, span.shape)
        for name, span in sorted(spans.items())
    }
