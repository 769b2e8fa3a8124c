"""SHA-256 of bytes that pass by, in a thread of its own.

Hashing costs about as much as reading and adding together, and hashlib lets other threads run meanwhile. So pieces
that somebody reads anyway are handed to one worker thread, which hashes them in the order in which they came; a short
queue keeps memory constant. One thread and not more, because the bytes of one file have an order.
"""

from __future__ import annotations

import hashlib
from queue import Queue
from threading import Thread
from types import TracebackType
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from typing_extensions import Buffer

_QUEUE = 8
_Job: TypeAlias = "tuple[hashlib._Hash, Buffer] | None"


class Hashing:
    """A thread that hashes. Use it as a context; at the end of the block everything that was handed over is hashed."""

    def __init__(self) -> None:
        self._jobs: Queue[_Job] = Queue(_QUEUE)
        self._thread = Thread(target=self._work, daemon=True)

    def __enter__(self) -> Hashing:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._jobs.put(None)
        self._thread.join()

    def update(self, digest: hashlib._Hash, piece: Buffer) -> None:
        """Hash ``piece``, which nobody may change afterwards, some time soon."""
        self._jobs.put((digest, piece))

    def finish(self, digest: hashlib._Hash) -> str:
        """``sha256:`` and 64 hexadecimal digits, once everything that was handed over is hashed."""
        self._jobs.join()
        return "sha256:" + digest.hexdigest()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            digest, piece = job
            digest.update(piece)
            del job, piece
            self._jobs.task_done()
        self._jobs.task_done()
