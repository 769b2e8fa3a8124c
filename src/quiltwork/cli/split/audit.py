"""``quiltwork split audit``: what a run kept and what it did not, from its records and from tests run now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.inputs import print_json, say

NAME = "audit"
PAGE = "certificate.html"
HELP = """Say which guarantees a run holds and which it does not, with the evidence of each.

Reads the records of a run directory, checks that its states are those of the records, and writes certificate.json,
certificate.html and certificate.png. Where a tape was kept (train --tape), its messages must be those of the records,
and each party is started again in a sealed process, with its own files and the recorded messages alone: its answers
must be the same to the last bit. For sums under masks, whose answers never come again, the masks are judged instead.
All that was sent to a party is searched for others' activations and the composer's parameters.

With --retrain it also trains again, from the files of the plan: as it was, where every component must come out the
same; then in joint mode as one graph in one process, which must give the same bits, and in isolated mode for each party
with all other fragments replaced by noise, where that party must see and become the same; with three parties or more a
minority of them lies. With a tape, labels are read off cotangents in the name of each party. Components with a budget
for each record are not trained again, since that would be a further release.

Each check is tried on a planted breach that it must catch."""
EXAMPLES = """Examples:

`quiltwork split audit plan.toml --run run`

`quiltwork split audit plan.toml --run run --retrain --out audit --json`"""


def run(
    plan: Annotated[Path, typer.Argument(help="The plan, a TOML file.")],
    run_: Annotated[Path, typer.Option("--run", help="Run directory that train wrote.")],
    out: Annotated[Path | None, typer.Option(help="Directory for the certificate; the run's own if left out.")] = None,
    retrain: Annotated[bool, typer.Option(help="Train again, as it was and with fragments replaced.")] = False,
    trust_code: Annotated[list[str] | None, typer.Option(help="Whose own code may run. Repeatable.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the certificate as JSON.")] = False,
) -> None:
    """Say which guarantees a run holds and which it does not."""
    import json as jsonlib

    from quiltwork.audit.certificate import certify
    from quiltwork.audit.facts import read_facts
    from quiltwork.audit.page import write_page
    from quiltwork.cli.split.attacking import label_attacks
    from quiltwork.cli.split.folder import RECORDS, read_document, read_note
    from quiltwork.cli.split.home import stated_delta
    from quiltwork.cli.split.page import account, lines
    from quiltwork.cli.split.plan import read_plan
    from quiltwork.cli.split.programs import with_outcomes
    from quiltwork.cli.split.retraining import require_states, retrained
    from quiltwork.cli.split.subject import Subject
    from quiltwork.cli.split.taping import taped

    trusted = trust_code or []
    note = read_note(run_, plan.read_bytes())
    words = with_outcomes(read_plan(plan), plan.parent, trusted)
    facts = read_facts(read_document(run_, RECORDS))
    subject = Subject(run_, words, note, facts, plan.parent, trusted)
    require_states(subject)
    tape, found = taped(subject)
    found += retrained(subject) if retrain else []
    attacks = label_attacks(subject, tape) if retrain else []
    certificate = certify(facts, found, attacks, tape=tape, delta=stated_delta(words))
    place = out or run_
    written = write_page([account(run_, run_.resolve().name, certificate)], place / PAGE)
    if json:
        print_json(jsonlib.loads(certificate.to_json()))
        return
    for line in lines(certificate):
        print(line)
    say(f"wrote {written[0]} and {', '.join(path.name for path in written[1:])} beside it")
