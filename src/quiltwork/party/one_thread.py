"""Arithmetic on one thread, so that sums have one order and equal rows give equal bytes on any machine.

The limit holds for the whole process, and fits may run side by side in threads of it. So the first to enter sets it and
the last to leave lifts it; each lifting its own would set the others loose in the middle of theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import threadpool_limits


class _Limit:
    """How many hold the limit, and the limit."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holders = 0
        self.limit: threadpool_limits | None = None


_LIMIT = _Limit()


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold the native libraries behind NumPy and SciPy to one thread while the block runs, in any thread."""
    with _LIMIT.lock:
        _LIMIT.holders += 1
        if _LIMIT.holders == 1:
            _LIMIT.limit = threadpool_limits(limits=1)
    try:
        yield
    finally:
        with _LIMIT.lock:
            _LIMIT.holders -= 1
            if _LIMIT.holders == 0 and _LIMIT.limit is not None:
                _LIMIT.limit.restore_original_limits()
