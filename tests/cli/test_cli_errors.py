"""The door itself: help, version, exit codes 0, 1 and 2, and no traceback for a user's mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_runner import Outcome, assert_refusal, done, finish, misused, run, start

import quiltwork
from quiltwork.cli import app, inspect
from quiltwork.errors import QuiltworkError

VERBS = (
    "demo",
    "contribute",
    "inspect",
    "compose",
    "choose",
    "add",
    "remove",
    "evaluate",
    "report",
    "generate",
    "predict",
    "split",
)


def test_the_command_as_a_process() -> None:
    """Help, version, usage and refusal with their exit codes; all four at once, since starting is slow."""
    processes = [start(*a) for a in (["--help"], ["--version"], ["compose", "--nonsense"], ["inspect", "nowhere"])]
    help_, version, usage, refusal = map(finish, processes)
    assert help_.code == 0
    assert all(verb in help_.out for verb in VERBS)
    assert (version.code, version.out) == (0, f"quiltwork {quiltwork.__version__}\n")
    assert usage.code == 2
    assert "--nonsense" in usage.err
    assert_refusal(refusal, "nowhere")


def test_help_needs_none_of_the_heavy_libraries() -> None:
    heavy = (
        "numpy",
        "scipy",
        "sklearn",
        "torch",
        "transformers",
        "accelerate",
        "pyarrow",
        "matplotlib",
        "dp_accounting",
        "jinja2",
    )
    code = (
        "import sys\nfrom quiltwork.cli.app import main\nsys.argv = ['quiltwork', 'compose', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print([name for name in {heavy} if name in sys.modules], file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_has_a_help_with_examples(verb: str) -> None:
    outcome = done(verb, "--help")
    assert f"quiltwork {verb}" in outcome.out
    assert "Example" in outcome.out
    assert "--json" in outcome.out


def test_no_verb_shows_the_help() -> None:
    outcome = run()
    assert outcome.code in (0, 2)
    assert "contribute" in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("sew",), "sew"),
        (("inspect",), "DIRECTORY"),
        (("contribute", "--party", "x"), "--base"),
        (("contribute", "expert", "--steps", "many"), "'--steps'"),
        (("contribute", "--steps", "many"), "'--steps'"),
        (("compose", "a", "--base", "b", "--out", "c"), "--method"),
        (("remove", "a", "--out", "b"), "--party"),
        (("report",), "SCORES"),
        (("demo", "--jobs", "two"), "'--jobs'"),
        (("demo", "text", "--jobs", "two"), "'--jobs'"),
    ],
)
def test_wrong_usage_exits_with_two(arguments: tuple[str, ...], names: str) -> None:
    misused(*arguments, names=names)


def raising(error: BaseException) -> Callable[..., None]:
    def read(*_: object, **__: object) -> None:
        raise error

    return read


def inspected(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    monkeypatch.setattr(inspect, "_contribution", raising(error))
    return run("inspect", "somewhere")


def test_the_three_parts_of_an_error_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = inspected(QuiltworkError("the quilt", why="it has a hole", mend="Patch it."), monkeypatch)
    assert outcome.err == "refused: the quilt\n  why:   it has a hole\n  mend:  Patch it.\n"
    assert (outcome.code, outcome.out) == (1, "")


def test_an_interrupt_exits_with_one_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = inspected(KeyboardInterrupt(), monkeypatch)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err == "interrupted; nothing half-written is left behind\n"


def test_an_error_of_the_file_system_is_refused_by_path(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = inspected(PermissionError(13, "Permission denied", "/a/b"), monkeypatch)
    assert_refusal(outcome, ("'/a/b'", "Permission denied"))


def test_a_mistake_of_ours_still_has_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        inspected(ZeroDivisionError(), monkeypatch)


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """``quiltwork --help | true``: exit code 1 at most, and no complaint about a broken pipe."""
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run(
        [sys.executable, "-m", "quiltwork", "--help"], stdout=writing, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(writing)
    assert process.returncode in (0, 1)
    assert process.stderr == ""


def test_libraries_are_kept_offline_and_quiet_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "info")
    app._quiet_libraries()
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["TRANSFORMERS_VERBOSITY"] == "info"
