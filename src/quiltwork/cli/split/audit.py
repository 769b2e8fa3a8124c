"""``quiltwork split audit``: what a run kept and what it did not, from its records and from tests run now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.inputs import print_json, say

NAME = "audit"
HELP = """Say what a run kept and what it did not, with the evidence of each claim.

Reads the records of a run directory, checks that its states are those of the records, and writes certificate.json and
certificate.md. With --retrain it also trains again: as it was, where every component must come out the same; and once
for each party with all other fragments replaced by noise, where in isolated mode that party's component must come out
the same, and in joint mode it must not. That takes one training more than there are parties, and needs the files of the
plan."""
EXAMPLES = """Examples:

`quiltwork split audit plan.toml --run run`

`quiltwork split audit plan.toml --run run --retrain --out audit --json`"""


def run(
    plan: Annotated[Path, typer.Argument(help="The plan, a TOML file.")],
    run_: Annotated[Path, typer.Option("--run", help="Run directory that train wrote.")],
    out: Annotated[Path | None, typer.Option(help="Directory for the certificate; the run's own if left out.")] = None,
    retrain: Annotated[bool, typer.Option(help="Train again, as it was and with fragments replaced.")] = False,
    trust_code: Annotated[list[str] | None, typer.Option(help="Party whose own code may run. Repeatable.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the certificate as JSON.")] = False,
) -> None:
    """Say what a run kept and what it did not."""
    import json as jsonlib

    from quiltwork.cli.split.findings import certificate, page
    from quiltwork.cli.split.folder import CERTIFICATE, RECORDS, read_json, read_note
    from quiltwork.cli.split.plan import read_plan
    from quiltwork.cli.split.retraining import retrained, states_as_recorded
    from quiltwork.files import write_file

    words = read_plan(plan)
    note = read_note(run_, plan.read_bytes())
    facts = read_json(run_, RECORDS)
    trusted = trust_code or []
    tests = [states_as_recorded(run_, words, note, facts, plan.parent, trusted)]
    if retrain:
        tests += retrained(words, facts, plan.parent, trusted)
    document = certificate(facts, tests, retrained=retrain)
    place = out or run_
    write_file(place / CERTIFICATE, jsonlib.dumps(document, indent=1, sort_keys=True, allow_nan=False))
    write_file(place / "certificate.md", page(document))
    if json:
        print_json(document)
        return
    for finding in document["findings"]:
        print(f"{finding['status']:>10}  {finding['claim']}\n{'':>12}{finding['evidence']}")
    say(f"wrote {place / CERTIFICATE} and {place / 'certificate.md'}")
