"""Progress of long work on standard error: a live bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Counts steps of one piece of work.

    Args:
        label: what the work is.
        total: number of steps.
        done: steps that an earlier run has done.
        enabled: False shows nothing.
    """

    def __init__(self, label: str, total: int, *, done: int = 0, enabled: bool = True) -> None:
        self._label, self._total, self._done, self._first = label, total, done, done
        self._enabled = enabled
        self._began = self._last = time.monotonic()
        self._bar: RichProgress | None = None
        if enabled and sys.stderr.isatty():
            self._bar = RichProgress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("ETA"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(label, total=total, completed=done, note="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, note: str = "") -> None:
        """Count one step; ``note`` is shown beside the count."""
        self._done += 1
        if self._bar is not None:
            self._bar.update(self._task, advance=1, note=note)
        elif self._enabled:
            self._line(note)

    def _line(self, note: str) -> None:
        now = time.monotonic()
        if now - self._last < _SECONDS_BETWEEN_LINES and self._done < self._total:
            return
        self._last = now
        rate = (self._done - self._first) / max(now - self._began, 1e-9)
        left = (self._total - self._done) / max(rate, 1e-9)
        parts = [f"{self._label}: {self._done}/{self._total}", note, f"ETA {left:.0f} s"]
        print("  ".join(p for p in parts if p), file=sys.stderr, flush=True)
