"""SHA-256 of bytes that pass by, in threads of their own.

Hashing costs about as much as reading and adding together, and hashlib lets other threads run meanwhile. So pieces
that somebody reads anyway are handed to a worker thread; a short queue keeps memory constant. The bytes of one file
have an order, so all pieces of one digest go to the same worker, in the order in which they came: to the one that had
the fewest bytes when the digest was first seen.
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
    """Threads that hash. Use it as a context; at the end of the block everything that was handed over is hashed.

    Args:
        threads: how many; more than one are of use to whoever hashes several things at a time.
    """

    def __init__(self, threads: int = 1) -> None:
        self._workers = [_Worker() for _ in range(threads)]
        self._worker_of: dict[int, _Worker] = {}

    def __enter__(self) -> Hashing:
        for worker in self._workers:
            worker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.jobs.put(None)
        for worker in self._workers:
            worker.join()

    def update(self, digest: hashlib._Hash, piece: Buffer) -> None:
        """Hash ``piece``, which nobody may change afterwards, some time soon."""
        worker = self._worker_of.get(id(digest))
        if worker is None:
            worker = self._worker_of[id(digest)] = min(self._workers, key=lambda one: one.bytes)
        worker.bytes += len(memoryview(piece).cast("B"))
        worker.jobs.put((digest, piece))

    def finish(self, digest: hashlib._Hash) -> str:
        """``sha256:`` and 64 hexadecimal digits, once everything that was handed over for it is hashed."""
        worker = self._worker_of.pop(id(digest), None)
        if worker is not None:
            worker.jobs.join()
        return "sha256:" + digest.hexdigest()


class _Worker(Thread):
    """Hashes what is in its queue, until it finds None there."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.jobs: Queue[_Job] = Queue(_QUEUE)
        self.bytes = 0

    def run(self) -> None:
        while (job := self.jobs.get()) is not None:
            digest, piece = job
            digest.update(piece)
            del job, piece
            self.jobs.task_done()
        self.jobs.task_done()
