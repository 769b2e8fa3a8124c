"""Safetensors files, written as their tensors stream by.

The header is known before the first byte of data is, so a file is written front to back, a piece at a time, and hashed
in the same pass. No date, no name of a machine: equal tensors make equal files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from quiltwork.errors import BrokenPromise
from quiltwork.files import FileRecord
from quiltwork.streaming.hashing import Hashing
from quiltwork.streaming.layout import Dtype, build, layout

if TYPE_CHECKING:
    from typing_extensions import Buffer


@runtime_checkable
class Streamed(Protocol):
    """A tensor that is read when it is written, in pieces of whole elements, which nobody changes afterwards."""

    @property
    def dtype(self) -> Dtype:
        """Its type."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        ...

    def pieces(self) -> Iterator[Buffer]:
        """Its little-endian bytes in C order."""
        ...


def write_tensors(path: Path, tensors: Mapping[str, Streamed], hashing: Hashing | None = None) -> FileRecord:
    """Write one file.

    Args:
        path: the file to make; there must be none.
        tensors: by name.
        hashing: the thread that hashes; None starts one.

    Returns:
        its size and its digest.

    Raises:
        BrokenPromise: a tensor gives more or fewer bytes than its shape takes.
        OSError: the file system refuses.
    """
    _keep_freed_memory()
    if hashing is None:
        with Hashing() as own:
            return write_tensors(path, tensors, own)
    types = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
    prefix, digest = build(types), hashlib.sha256()
    with open(path, "xb", buffering=0) as file:
        file.write(prefix)
        hashing.update(digest, prefix)
        for name, span in layout(types).items():
            for piece in tensors[name].pieces():
                _write_all(file, piece)
                hashing.update(digest, piece)
            if file.tell() != len(prefix) + span.end:
                raise _wrong_size(name)
        return FileRecord(file.tell(), hashing.finish(digest))


def _keep_freed_memory() -> None:
    """Have the allocator keep the memory of pieces that are done with.

    glibc returns large blocks to the kernel when they are freed, and every piece would be paid for in page faults
    again. It stops where a larger block was freed before (mallopt(3), M_MMAP_THRESHOLD); this one is never touched.
    """
    np.empty(2**24, np.uint8)


def _write_all(file: FileIO, piece: Buffer) -> None:
    rest = memoryview(piece).cast("B")
    while rest:
        # a system call takes at most 2 GiB, and may take less
        rest = rest[file.write(rest) :]


def _wrong_size(name: str) -> BrokenPromise:
    mend = "Report it, with the command that led here."
    return BrokenPromise(f"tensor '{name}'", why="it gives more or fewer bytes than its shape takes", mend=mend)
