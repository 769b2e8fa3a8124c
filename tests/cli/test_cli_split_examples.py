"""The examples of split learning run, small, and say what they are to say."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / name))


def score(text: str, what: str) -> float:
    return float(text.split(f"{what}: ")[1].split()[0])


def test_exclusive_or_fails_in_isolation_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    example("split_xor.py")["main"](rows=600)
    said = capsys.readouterr().out
    assert score(said, "isolated") < 0.7
    assert "it says: no fragment alone tells the label" in said
    assert score(said, "joint") == 1.0
    assert "activation:birch" in said


def test_quadrants_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    example("split_quadrants.py")["main"](tmp_path, epochs=6)
    said = capsys.readouterr().out
    assert score(said, "nobody down") > 0.85
    assert score(said, "south-east down") > 0.75
    assert "\nheld: G2 Full non-interference" in said
    assert "\nnot held: G1 Confinement" in said


def test_six_views_drawn_or_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    views = example("split_views.py")
    views["main"](each=30, epochs=5)
    drawn = capsys.readouterr().out
    assert "scores mean nothing" in drawn
    assert score(drawn, "isolated") > max(score(drawn, f"{view} alone") for view in views["COLUMNS"])
    for view, table in views["drawn"](30).items():
        np.savetxt(tmp_path / f"mfeat-{view}", table)
    found = views["read"](tmp_path)
    for view, table in views["drawn"](30).items():
        np.testing.assert_array_equal(found[view], table)


def test_columns_of_two_owners_drawn_or_from_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    census = example("split_census.py")
    census["main"](rows=800, epochs=6)
    drawn = capsys.readouterr().out
    assert "scores mean nothing" in drawn
    assert score(drawn, "joint") > score(drawn, "commonest class") + 0.05
    lines = [", ".join(person) for person in census["drawn"](800)]
    (tmp_path / "adult.data").write_text("\n".join([*lines, ""]))
    found = census["read"](tmp_path, 800)
    assert [[word.strip() for word in person] for person in found] == census["drawn"](800)
