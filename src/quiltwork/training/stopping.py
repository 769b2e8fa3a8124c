"""How a training loop ends before its last step: by a signal, or because its loss is no number any more."""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from quiltwork.errors import Interrupted, InvalidOption


@contextmanager
def stop_flag() -> Iterator[threading.Event]:
    """A flag that Ctrl-C or SIGTERM sets, so that the step in progress ends before the run does."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag  # only the main thread may handle signals
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.signal(s, lambda *_: flag.set()) for s in signals}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def require_finite(loss: float, where: str, learning_rate: float) -> None:
    """Refuse to go on with a loss that is not finite; ``where`` names the step.

    Raises:
        InvalidOption: it is not.
    """
    if not math.isfinite(loss):
        raise InvalidOption(
            where,
            why=f"the loss is {loss}: training has diverged at learning_rate={learning_rate}",
            mend="Choose a smaller learning rate.",
        )


def interrupted(where: str, *, resumes: bool) -> Interrupted:
    """The end that the user asked for; ``resumes`` says whether a state was kept."""
    mend = "Run the same command again: it goes on from here." if resumes else "Run it again."
    return Interrupted(where, why="it was told to stop", mend=mend)
