"""Running the command as a user types it: in this process, or in one of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from quiltwork.cli.app import main

FAST = ("--steps", "2", "--batch-size", "2", "--sequence-length", "32")


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as strict JSON."""
        return json.loads(self.out, parse_constant=lambda name: int(f"not JSON: {name}"))


def run(*arguments: object) -> Outcome:
    """``quiltwork ARGUMENTS`` in this process, through the entry point that is installed as the command."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with patch.object(sys, "argv", ["quiltwork", *map(str, arguments)]), redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return Outcome(code, out.getvalue(), err.getvalue())


def done(*arguments: object) -> Outcome:
    """Run a command that must succeed."""
    outcome = run(*arguments)
    assert outcome.code == 0, outcome.err
    return outcome


def refused(*arguments: object, names: tuple[str, ...] | str, mend: str = "") -> Outcome:
    """Run a command that must be refused with exit code 1 and all of ``names`` in a message of three parts."""
    outcome = run(*arguments)
    assert_refusal(outcome, names, mend)
    return outcome


def assert_refusal(outcome: Outcome, names: tuple[str, ...] | str, mend: str = "") -> None:
    """The outcome is a refusal: code 1, what, why and mend, no traceback, nothing on standard output."""
    assert outcome.code == 1, outcome
    assert "Traceback" not in outcome.err
    assert outcome.out == ""
    words = outcome.err[outcome.err.index("refused: ") :]
    what, why, mending = words.rstrip().split("\n")[:3]
    assert what.startswith("refused: ")
    assert why.startswith("  why:   ")
    assert len(why) > len("  why:   ")
    assert mending.startswith("  mend:  ")
    assert len(mending) > len("  mend:  ")
    for name in (names,) if isinstance(names, str) else names:
        assert name in words, words
    assert mend in mending, mending


def misused(*arguments: object, names: str) -> Outcome:
    """Run a command that is wrong usage: exit code 2."""
    outcome = run(*arguments)
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err
    assert names.lower() in " ".join(outcome.err.replace("│", " ").split()).lower(), outcome.err
    return outcome


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """``python -m quiltwork ARGUMENTS`` as a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "quiltwork", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | environment,
    )


def finish(process: subprocess.Popen[str]) -> Outcome:
    """Wait for a process."""
    out, err = process.communicate(timeout=900)
    return Outcome(process.returncode, out, err)


def files(directory: Path) -> dict[str, bytes]:
    """Content of every file below a directory, by relative name."""
    return {str(p.relative_to(directory)): p.read_bytes() for p in sorted(directory.rglob("*")) if p.is_file()}
