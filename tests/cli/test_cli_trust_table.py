"""The table of docs/signing.md, verb by verb, against the options of the command."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.core import TyperGroup

from quiltwork.cli import trusting
from quiltwork.cli.app import app

PAGE = Path(__file__).parents[2] / "docs" / "signing.md"
TABLE = re.compile(r"^## Which verb asks for what$.*?^## ", re.M | re.S)


def help_of(option: Any) -> str:
    """The sentence of an annotated option."""
    return str(next(one.help for one in get_args(option) if hasattr(one, "help")))


SIGNATURES = {
    help_of(trusting.TrustFile): "required",
    help_of(trusting.RevocationKeys): "keys",
    help_of(trusting.ShownKeys): "shown",
    None: "-",
}
REVOCATIONS = {help_of(trusting.Revocations): "refused", help_of(trusting.ShownRevocations): "shown", None: "-"}


def verbs(group: Any = None, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every verb and kind by what is typed; of sessions, which know no contributions, all kinds."""
    group = group or typer.main.get_command(app)
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from verbs(command, f"{before}{name} ")
        else:
            yield before + name, command


def offered(command: Any) -> tuple[str, str]:
    """What a verb does with signatures and with revocations, by the sentences of its options."""
    helps = {option: one.help for one in command.params for option in one.opts}
    return SIGNATURES[helps.get("--trust")], REVOCATIONS[helps.get("--revocations")]


def documented() -> dict[str, tuple[str, str]]:
    section = TABLE.search(PAGE.read_text(encoding="utf-8"))
    assert section is not None
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in section[0].splitlines() if line.startswith("| `")
    ]
    return {verb.strip("`"): (signatures, revocations) for verb, _, signatures, revocations in rows}


def test_every_verb_is_in_the_table_and_does_what_it_says() -> None:
    told = documented()
    found = {name: offered(command) for name, command in verbs()}
    sessions = {name: kind for name, kind in found.items() if name.startswith("split ")}
    assert set(sessions.values()) == {told.pop("split")}
    assert told == {name: kind for name, kind in found.items() if name not in sessions}


READS = re.compile(
    r"\b(read_contributions|read_trusted|read_known|open_any|open_composite|open_mixtures?|open_network)\("
)


def test_a_verb_that_opens_what_others_made_asks_for_revocations() -> None:
    """By the source: whoever calls a reader of contributions or composites has the option, but for three on purpose."""
    root = Path(trusting.__file__).parent
    found = dict(verbs())
    for name, command in found.items():
        verb, _, kind = name.partition(" ")
        file = root / verb / f"{kind}.py" if kind else root / f"{ {'list': 'listing'}.get(verb, verb) }.py"
        if verb == "split" or name == "remove" or not READS.search(file.read_text(encoding="utf-8")):
            continue
        assert offered(command)[1] != "-", name


@pytest.mark.parametrize("option", ["--trust", "--revocations"])
def test_a_verb_without_an_option_would_be_noticed(option: str) -> None:
    command = next(command for name, command in verbs() if name == "export")
    kept = [one for one in command.params if option not in one.opts]
    assert len(kept) == len(command.params) - 1
    command.params = kept
    assert offered(command) != documented()["export"]
