"""``quiltwork contribute`` is a group of kinds; without one it means an expert of a language model."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import FAST, done, misused

from quiltwork.cli.contribute import KINDS
from quiltwork.contribution.store import read


def test_the_help_lists_every_kind() -> None:
    shown = done("contribute", "--help").out
    assert all(kind.NAME in shown for kind in KINDS)


@pytest.mark.parametrize("kind", [kind.NAME for kind in KINDS])
def test_each_kind_has_a_help_with_examples_of_itself(kind: str) -> None:
    shown = done("contribute", kind, "--help").out
    assert f"quiltwork contribute {kind}" in shown
    assert "--json" in shown


def test_without_a_kind_an_expert_is_meant(base: Path, fragments: dict[str, Path], tmp_path: Path) -> None:
    rest = ("--base", base, "--data", fragments["ash"], "--party", "ash", "--scope", "none", *FAST)
    done("contribute", *rest, "--out", tmp_path / "unnamed")
    done("contribute", "expert", *rest, "--out", tmp_path / "named")
    assert read(tmp_path / "unnamed").digest == read(tmp_path / "named").digest


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
