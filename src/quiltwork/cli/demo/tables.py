"""``quiltwork demo tables``: the story of a regression over machines, on rows drawn from a known truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.inputs import say

NAME = "tables"
HELP = """Eight machines hold rows of one table and compose one regression without moving a row, in less than a minute.

Draws the table from a known truth and cuts it over the machines, one of which joined its responses to the wrong rows.
Each fits a mixture of experts as a process that can open only its own rows; then they are composed with every method
for tables, the bad fit is found, one machine leaves and comes back, all are scored, and a report is written."""
EXAMPLES = """Examples:

`quiltwork demo tables`

`quiltwork demo tables --out demo-tables --machines 16 --rows 32000 --regime shifted --json`"""


def run(
    out: Annotated[Path, typer.Option(help="Directory to write; a former demo is replaced.")] = Path("demo-tables"),
    machines: Annotated[int, typer.Option(help="How many machines, from 6 on.")] = 8,
    rows: Annotated[int, typer.Option(help="Rows over all machines, a quarter of them held out.")] = 12000,
    regime: Annotated[str, typer.Option(help="How rows differ between machines: even, hard or shifted.")] = "even",
    jobs: Annotated[int, typer.Option(help="Machines at work at a time.")] = 2,
    seed: Annotated[int, typer.Option(help="Seed of everything.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Eight machines compose one regression without moving a row."""
    from quiltwork.cli.evaluate import print_scores
    from quiltwork.cli.table_story import TableStory
    from quiltwork.evaluate.scores import load_scores

    story = TableStory(out, machines, rows, regime, jobs, seed)
    story.tell()
    scores = load_scores(out / "scores.json")
    if json:
        print(scores.to_json())
        return
    print_scores(scores)
    same = "byte for byte what it would have been" if scores.opt_out_identical else "NOT what it would have been"
    print(f"\nTaking out '{story.leaver}': the composed model is {same} without that machine.")
    for party, reason in scores.methods["reduction"].excluded.items():
        print(f"Excluded '{party}': {reason}.")
    say(f"report: {out / 'report.html'}   model: {out / 'composed'}")
