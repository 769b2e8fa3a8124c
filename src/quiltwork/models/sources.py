"""Tensors that are described now and loaded when they are written.

A composed checkpoint is larger than any of its parts, so nothing holds all of it: a ``Source`` knows the dtype and
shape of one tensor and how to get it, and a checkpoint is a table of sources.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from quiltwork.errors import CheckpointError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}


@dataclass(frozen=True)
class Source:
    """One tensor: what it is, and how to get it.

    Attributes:
        dtype: its type.
        shape: its shape.
        load: returns it, on the CPU.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    load: Callable[[], Tensor]

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(torch.Size(self.shape).numel())

    @classmethod
    def of(cls, tensor: Tensor) -> Source:
        """A source of a tensor in memory."""
        return cls(tensor.dtype, tuple(tensor.shape), lambda: tensor)

    def derive(self, change: Callable[[Tensor], Tensor]) -> Source:
        """A source of ``change(tensor)``, which must keep shape and dtype."""
        return Source(self.dtype, self.shape, lambda: change(self.load()))


Sources = Mapping[str, Source]


def total_size(tables: Iterable[Sources]) -> int:
    """Number of elements in all tables together."""
    return sum(source.size for table in tables for source in table.values())


def open_file(path: Path) -> dict[str, Source]:
    """The tensors of a safetensors file, none of them loaded.

    Raises:
        CheckpointError: the file cannot be read, is cut short, or holds a dtype that is not floating point.
    """
    from safetensors import SafetensorError, safe_open

    def load(name: str) -> Tensor:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(name)  # type: ignore[no-any-return]

    table: dict[str, Source] = {}
    try:
        with safe_open(path, framework="pt") as file:
            for name in sorted(file.keys()):
                part = file.get_slice(name)
                dtype = _DTYPES.get(part.get_dtype())
                if dtype is None:
                    raise CheckpointError(
                        f"tensor '{name}' in '{path}'",
                        why=f"its dtype {part.get_dtype()} is not a floating-point type",
                        mend="Use an unquantised checkpoint.",
                    )
                table[name] = Source(dtype, tuple(part.get_shape()), lambda name=name: load(name))  # type: ignore[misc]
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"file '{path}'",
            why=f"it cannot be read as safetensors ({error})",
            mend="Fetch the checkpoint again; it may be cut short.",
        ) from error
    return table
