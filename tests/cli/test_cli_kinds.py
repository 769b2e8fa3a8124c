"""``contribute`` and ``demo`` are groups of kinds; where none is named the first is meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import FAST, done, misused, refused

from quiltwork.cli import contribute, demo
from quiltwork.contribution.store import read

EVERY = [(verb.NAME, kind.NAME) for verb in (contribute, demo) for kind in verb.KINDS]


@pytest.mark.parametrize(("verb", "kind"), EVERY)
def test_each_kind_is_listed_and_has_a_help_with_examples_of_itself(verb: str, kind: str) -> None:
    assert kind in done(verb, "--help").out
    shown = done(verb, kind, "--help").out
    assert f"quiltwork {verb} {kind}" in shown
    assert "--json" in shown


def test_without_a_kind_an_expert_is_meant(base: Path, fragments: dict[str, Path], tmp_path: Path) -> None:
    rest = ("--base", base, "--data", fragments["ash"], "--party", "ash", "--scope", "none", *FAST)
    done("contribute", *rest, "--out", tmp_path / "unnamed")
    done("contribute", "expert", *rest, "--out", tmp_path / "named")
    assert read(tmp_path / "unnamed").digest == read(tmp_path / "named").digest


def test_contribute_alone_shows_what_there_is() -> None:
    assert "expert" in misused("contribute", names="").out


def test_demo_alone_tells_the_first_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo-out").write_text("in the way")
    monkeypatch.chdir(tmp_path)
    for words in (("demo",), ("demo", "text"), ("demo", "--out", "demo-out")):
        refused(*words, names=("demo-out", "no former demo"))


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("sew", "--party", "x"), "No such command 'sew'"),
        (("experts",), "Did you mean 'expert'"),
        (("expert", "--party", "x"), "--base"),
        (("--target", "y"), "--target"),
    ],
)
def test_a_kind_that_does_not_exist_or_lacks_an_option_is_wrong_usage(arguments: tuple[str, ...], names: str) -> None:
    misused("contribute", *arguments, names=names)
