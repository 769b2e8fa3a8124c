"""A tensor that lies in a file, read in pieces.

Every reader and writer of this room moves ``ELEMENTS`` elements at a time, whatever their dtype, so that tensors of
different dtypes can be walked side by side, and what is held is a few pieces, however large the tensors are. 2^18
elements are 0.5 MiB of bfloat16: large beside the cost of a system call, small beside a second-level cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quiltwork.errors import CheckpointError

ELEMENTS = 2**18


@dataclass(frozen=True)
class Place:
    """The bytes of one tensor in a file: little-endian, in C order.

    Attributes:
        path: the file.
        offset: the byte at which the tensor begins.
        nbytes: its size.
    """

    path: Path
    offset: int
    nbytes: int

    def pieces(self, item_bytes: int, elements: int = ELEMENTS) -> Iterator[bytes]:
        """The tensor's bytes, ``elements`` elements of ``item_bytes`` each at a time; the last piece may be shorter.

        Raises:
            CheckpointError: the file cannot be opened or read any more, or has become shorter.
        """
        step, end = elements * item_bytes, self.offset + self.nbytes
        try:
            with open(self.path, "rb", buffering=0) as file:
                for start in range(self.offset, end, step):
                    yield self._exactly(file.fileno(), start, min(step, end - start))
        except OSError as error:
            raise self._unreadable(error.strerror or str(error)) from error

    def read(self) -> bytearray:
        """The whole tensor, in memory of its own; the same errors as ``pieces``."""
        data = bytearray()
        for piece in self.pieces(1, 2**24):
            data += piece
        return data

    def _exactly(self, descriptor: int, start: int, due: int) -> bytes:
        data = os.pread(descriptor, due, start)
        while len(data) < due:
            more = os.pread(descriptor, due - len(data), start + len(data))
            if not more:
                raise self._unreadable("it has become shorter")
            data += more
        return data

    def _unreadable(self, why: str) -> CheckpointError:
        mend = "Leave the checkpoint as it is while it is read, or fetch it again."
        return CheckpointError(f"file '{self.path}'", why=f"it cannot be read any more ({why})", mend=mend)
