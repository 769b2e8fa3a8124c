"""``quiltwork split align``: common cases of owners on machines of their own, by three files handed over."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.inputs import print_json, say
from quiltwork.errors import FragmentError, InvalidOption

NAME = "align"
HELP = """Find the cases that owners have in common, each on its own machine, and write their tables under pseudonyms.

One owner asks, the others answer; files go from hand to hand, never by way of the composer:

1. The asker: `align request`, --out is for every other owner, --secret stays.
2. Each other owner: `align answer` with --given the request; --out is for the asker.
3. The asker: `align finish` with --given each answer and its --secret; --out is for every other owner, --table its own
aligned table.
4. Each other owner: `align apply` with --given that file; --table is its own aligned table. Any further file of ids,
such as labels, is aligned in the same way, by whoever holds it.

Aligned tables have the common cases alone, in one order, with pseudonyms in the place of ids: the plan names the same
id column, and needs no further alignment. Ids are private set intersected (extra align) and compared byte by byte. The
asker learns which of its cases each other owner has, and how many cases that owner has; the others learn how many cases
the asker has, and the common ones. The file of step 3 holds the key of the pseudonyms: with it ids can be tried."""
EXAMPLES = """Examples:

`quiltwork split align request bank.csv --id case --out request.psi --secret bank.secret`

`quiltwork split align answer shop.csv --id case --given request.psi --out answer.psi`

`quiltwork split align finish bank.csv --id case --given answer.psi --secret bank.secret --out common.psi --table b.csv`

`quiltwork split align apply shop.csv --id case --given common.psi --table s.csv`"""


class Step(StrEnum):
    """What is done with the files."""

    REQUEST = "request"
    ANSWER = "answer"
    FINISH = "finish"
    APPLY = "apply"


_WANTS = {
    Step.REQUEST: {"--out", "--secret"},
    Step.ANSWER: {"--given", "--out"},
    Step.FINISH: {"--given", "--secret", "--out", "--table"},
    Step.APPLY: {"--given", "--table"},
}


def run(
    step: Annotated[Step, typer.Argument(help="request, answer, finish or apply.")],
    rows: Annotated[Path, typer.Argument(help="This owner's own table, a CSV file with a header.")],
    id_: Annotated[str, typer.Option("--id", help="Its column of ids.")],
    given: Annotated[list[Path] | None, typer.Option(help="A file of another owner. finish: repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write for other owners.")] = None,
    secret: Annotated[Path | None, typer.Option(help="The asker's own: written by request, read by finish.")] = None,
    table: Annotated[Path | None, typer.Option(help="The aligned table to write.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
) -> None:
    """Find the cases that owners have in common, each on its own machine."""
    from quiltwork.party import handover

    files = {"--given": given, "--out": out, "--secret": secret, "--table": table}
    _require_options(step, {name for name, value in files.items() if value})
    if step in (Step.ANSWER, Step.APPLY) and len(given or ()) != 1:
        raise InvalidOption("--given", why=f"{step} takes one file", mend="Run it for one at a time.")
    _require_apart([path for path in (out, secret, table) if path], [rows, *(given or ())])
    header, body = _read_csv(rows)
    ids = _ids(rows, header, body, id_)
    heard = [_read(path) for path in given or ()]
    cases = len(ids)
    if step is Step.REQUEST:
        asked, kept = handover.request(ids)
        _write(secret, kept)
        _write(out, asked)
    elif step is Step.ANSWER:
        _write(out, handover.answer(ids, heard[0]))
    else:
        agreed = heard[0]
        if step is Step.FINISH:
            agreed = handover.agreement(handover.finish(ids, _read(secret), heard))
            _write(out, agreed)
        order, names = handover.apply(ids, agreed)
        cases = len(order)
        _write(table, _aligned(header, body, id_, order, names))
    _told(step, [path for path in (out, table) if path], len(ids), cases, json)


def _told(step: Step, written: Sequence[Path], own: int, cases: int, json: bool) -> None:
    if json:
        print_json({"step": str(step), "rows": own, "cases": cases, "written": [str(path) for path in written]})
        return
    common = f"; {cases} of {own} rows are common" if step in (Step.FINISH, Step.APPLY) else f" of {own} rows"
    say(f"wrote {', '.join(map(str, written))}{common}")


def _require_options(step: Step, found: set[str]) -> None:
    wanted = _WANTS[step]
    if wrong := sorted(wanted ^ found):
        why = f"align {step} needs it" if wrong[0] in wanted else f"align {step} does not take it"
        raise InvalidOption(wrong[0], why=why, mend=f"Give {', '.join(sorted(wanted))}, and no other file.")


def _require_apart(named: Sequence[Path], inputs: Sequence[Path]) -> None:
    """No file is written over one that is read, and no two as one."""
    places = [path.resolve() for path in (*named, *inputs)]
    if twice := next((path for path in places if places.count(path) > 1), None):
        raise InvalidOption(f"'{twice}'", why="it is named for two things", mend="Name another file for one of them.")


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    if path.suffix.lower() != ".csv":
        raise FragmentError(f"'{path}'", why="it is no CSV file", mend="Write the table as CSV, with a header.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            lines = [line for line in csv.reader(text, strict=True) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FragmentError(f"'{path}'", why="it is no CSV text in UTF-8", mend="Write it again.") from error
    if not lines or len(lines) < 2:
        raise FragmentError(f"'{path}'", why="it holds no rows", mend="Give a table with a header and rows.")
    short = next((row for row, line in enumerate(lines[1:], start=1) if len(line) != len(lines[0])), None)
    if short is not None:
        why = f"it has {len(lines[short])} cells, and the header {len(lines[0])}"
        raise FragmentError(f"'{path}' row {short}", why=why, mend="Correct the row.")
    return lines[0], lines[1:]


def _ids(path: Path, header: Sequence[str], body: Sequence[Sequence[str]], column: str) -> list[str]:
    if header.count(column) != 1:
        raise FragmentError(
            f"'{path}' column '{column}'", why="it is not there, or there twice", mend=f"Columns: {', '.join(header)}."
        )
    at = header.index(column)
    return [line[at] for line in body]


def _aligned(
    header: Sequence[str], body: Sequence[Sequence[str]], column: str, order: Sequence[int], names: Sequence[str]
) -> str:
    """The rows of the order, every cell as it was but the ids."""
    at, text = list(header).index(column), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for row, name in zip(order, names, strict=True):
        writer.writerow([name if i == at else cell for i, cell in enumerate(body[row])])
    return text.getvalue()


def _read(path: Path | None) -> bytes:
    from quiltwork.party.handover import MOST_BYTES

    assert path is not None
    if path.stat().st_size > MOST_BYTES:
        raise InvalidOption(f"'{path}'", why="it is larger than any file of an alignment", mend="Name the right file.")
    return path.read_bytes()


def _write(path: Path | None, data: bytes | str) -> None:
    from quiltwork.files import write_file

    assert path is not None
    write_file(path, data, private=True)
