"""A few of the kills that benchmarks/kills.py deals by the hundred; writers that do worse must fail them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from quiltwork import files
from quiltwork.composite import language

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def kills(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    environment = dict(os.environ)
    import kills

    os.environ.clear()
    os.environ.update(environment)
    return kills


def test_nothing_is_half_written_and_all_resumes(kills: Any) -> None:
    outcomes = kills.run(8, seed=3)
    assert {one.job for one in outcomes if one.killed} == {"contribute", "compose", "add", "remove"}
    assert [one for one in outcomes if one.failure] == []


@contextmanager
def in_place(target: Path, **_: Any) -> Iterator[Path]:
    """A writer that builds the target under its own name."""
    Path(target).mkdir()
    yield Path(target)


def test_a_writer_in_place_is_caught(kills: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "new_directory", in_place)
    outcomes = kills.run(8, seed=3, wanted=["compose"])
    assert "the target is half-written" in {one.failure for one in outcomes}


def test_leftovers_that_nobody_clears_are_caught(kills: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_clear_leftovers", lambda target: None)
    outcomes = kills.run(8, seed=3, wanted=["compose"])
    assert any(one.failure and one.failure.startswith("left over: .composed.") for one in outcomes)
