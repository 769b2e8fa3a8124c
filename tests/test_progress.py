"""Progress away from a terminal is a line now and then, on a terminal a bar, and nothing when switched off."""

from __future__ import annotations

import io
import re
import sys

import pytest

import quiltwork.progress as room
from quiltwork.progress import Progress


class Clock:
    """Time that passes only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(room, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""  # standard output belongs to results
    return captured.err.splitlines()


def test_a_line_every_ten_seconds_and_one_at_the_end(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("training", 10) as progress:
        for step in range(10):
            clock.now += 4.0
            progress.advance(f"loss {step}")
    assert lines(capsys) == [
        "training: 3/10  loss 2  ETA 28 s",
        "training: 6/10  loss 5  ETA 16 s",
        "training: 9/10  loss 8  ETA 4 s",
        "training: 10/10  loss 9  ETA 0 s",
    ]


def test_fast_work_is_one_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("packing", 1000) as progress:
        for _ in range(1000):
            progress.advance()
    assert lines(capsys) == ["packing: 1000/1000  ETA 0 s"]


def test_a_resumed_run_is_timed_by_its_own_steps(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    """90 steps were done before; 5 took 10 s, so the 5 left take 10 s: not the rate of 95 in 10 s."""
    with Progress("training", 100, done=90) as progress:
        for _ in range(5):
            clock.now += 2.0
            progress.advance()
    assert lines(capsys) == ["training: 95/100  ETA 10 s"]


def test_disabled_progress_prints_nothing(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for terminal in (False, True):
        if terminal:
            monkeypatch.setattr(sys, "stderr", Terminal())
        with Progress("training", 3, enabled=False) as progress:
            for _ in range(3):
                clock.now += 60.0
                progress.advance("loss 1.0")
        assert not terminal or sys.stderr.getvalue() == ""  # type: ignore[attr-defined]
    monkeypatch.undo()
    assert lines(capsys) == []


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with Progress("training", 4, done=1) as progress:
        for _ in range(3):
            progress.advance("loss 2.5")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert "training" in shown
    assert "4/4" in shown
    assert "loss 2.5" in shown


def test_a_failure_passes_through_and_stops_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress("training", 4)
    with pytest.raises(KeyError), progress:
        raise KeyError("gone")
    assert progress._bar is not None
    assert progress._bar.finished is False
    assert not progress._bar.live.is_started


def test_square_brackets_in_a_label_or_note_are_text(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "120")
    with Progress("far [red]base", 1) as progress:
        progress.advance("[/oops] loss")
    assert "[red]base" in terminal.getvalue()
    assert "[/oops] loss" in terminal.getvalue()
