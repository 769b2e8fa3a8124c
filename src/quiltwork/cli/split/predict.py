"""``quiltwork split predict``: what the parties that are up say of new rows together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.inputs import named_paths, print_json, say
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from quiltwork.cli.split.folder import RunNote
    from quiltwork.cli.split.plan import Plan
    from quiltwork.cli.split.rows import Columns

NAME = "predict"
HELP = """Predict the label of new rows with the parties that are up.

Each party gives a file of its own columns with --data NAME=FILE; one without a file is down. All must be up, or as many
as --quorum says. In isolated mode any number can answer, and in program mode nothing is known of the symbols of a party
that is down; in joint mode a composer knows what to do without a party only where it was trained with absences:
training.absence.

The file written has the ids, if the plan names their column, and a column for each class's probability and the
likeliest class, or for the number."""
EXAMPLES = """Examples:

`quiltwork split predict plan.toml --run run --data bank=bank.csv --data shop=shop.csv --out predictions.csv`

`quiltwork split predict plan.toml --run run --data bank=bank.csv --quorum 1 --out predictions.csv --json`"""


def run(
    plan: Annotated[Path, typer.Argument(help="The plan, a TOML file.")],
    run_: Annotated[Path, typer.Option("--run", help="Run directory that train wrote.")],
    data: Annotated[list[str], typer.Option(help="NAME=FILE: a party's own columns of the new rows. Repeatable.")],
    out: Annotated[Path, typer.Option(help="CSV file to write.")],
    quorum: Annotated[int | None, typer.Option(help="How many parties suffice. [default: all]")] = None,
    trust_code: Annotated[list[str] | None, typer.Option(help="Whose own code may run. Repeatable.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Predict the label of new rows with the parties that are up."""
    from quiltwork.cli.split.folder import read_note
    from quiltwork.cli.split.plan import read_plan
    from quiltwork.cli.split.programs import with_outcomes
    from quiltwork.files import write_file

    note = read_note(run_, plan.read_bytes())
    words = with_outcomes(read_plan(plan), plan.parent, trust_code or [])
    given = named_paths(data, "--data")
    _require_quorum(words, set(given), quorum)
    tables, ids = _aligned(words, note, given)
    found = _answers(words, note, tables, (run_, plan.parent), trust_code or [])
    write_file(out, _csv(found, note, ids))
    if json:
        print_json({"path": str(out), "rows": len(found), "parties": sorted(given)})
    else:
        say(f"wrote {out}: {len(found):,} rows, answered by {', '.join(sorted(given))}")


def _require_quorum(plan: Plan, up: set[str], quorum: int | None) -> None:
    if strange := sorted(up - set(plan.parties)):
        raise InvalidOption(
            f"--data {strange[0]}",
            why="the plan has no such party",
            mend=f"Its parties: {', '.join(sorted(plan.parties))}.",
        )
    due = len(plan.parties) if quorum is None else quorum
    if not 1 <= due <= len(plan.parties) or len(up) < due:
        down = ", ".join(sorted(set(plan.parties) - up)) or "none"
        raise InvalidOption(
            f"a quorum of {due}",
            why=f"{len(up)} of {len(plan.parties)} parties are up (down: {down})",
            mend="Give the files of more parties, or a smaller --quorum, from 1 on.",
        )
    if len(up) < len(plan.parties) and plan.training.mode == "joint" and not plan.training.absence:
        raise InvalidOption(
            f"a quorum of {due}",
            why="a joint composer that never missed a party does not know what to do without one",
            mend="Give all files, train with training.absence = 0.4, or in isolated mode.",
        )


def _aligned(
    plan: Plan, note: RunNote, given: dict[str, list[Path]]
) -> tuple[dict[str, NDArray[np.float64]], list[str] | None]:
    """The tables of the parties that are up, in one order, and the ids."""
    from quiltwork.cli.split.rows import agreed, linkage, read_columns

    read: dict[str, Columns] = {}
    for party, files in sorted(given.items()):
        part = plan.parties[party].model_copy(update={"files": [str(file) for file in files]})
        read[party] = read_columns(part, plan.id, Path(), note.columns[party])
    counts = {party: len(table.values) for party, table in read.items()}
    order = agreed(counts, {party: table.ids for party, table in read.items()}, linkage(plan))
    first = next(iter(read))
    own = read[first].ids
    ids = [own[row] for row in order[first]] if own is not None else None
    return {party: table.values[order[party]] for party, table in read.items()}, ids


def _answers(
    plan: Plan, note: RunNote, tables: dict[str, NDArray[np.float64]], places: tuple[Path, Path], trusted: list[str]
) -> NDArray[np.float64]:
    """Probabilities ``[n, k]``, or numbers ``[n, 1]``; ``places`` are the run's and the plan's."""
    import numpy as np
    import torch

    from quiltwork.cli.split.build import answering
    from quiltwork.cli.split.folder import restored_component, restored_mode

    run, root = places
    present = {
        party: (
            restored_component(run, plan, note, party, root, trusted),
            torch.from_numpy(table.astype(np.float32)),
        )
        for party, table in tables.items()
    }
    live = answering(plan, restored_mode(run, plan, note, root, trusted), present, len(note.prior))
    found = live.predict(np.arange(len(next(iter(tables.values()))), dtype=np.int64))
    live.close()
    return np.exp(found) if note.classes is not None else found * note.scale + note.centre


def _csv(found: NDArray[np.float64], note: RunNote, ids: list[str] | None) -> str:
    import csv
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = ["likeliest", *(f"p({name})" for name in note.classes)] if note.classes is not None else ["predicted"]
    writer.writerow([*(["id"] if ids is not None else []), *names])
    for row, values in enumerate(found):
        likeliest = [note.classes[int(values.argmax())]] if note.classes is not None else []
        own = [ids[row]] if ids is not None else []
        writer.writerow([*own, *likeliest, *(repr(float(value)) for value in values)])
    return text.getvalue()
