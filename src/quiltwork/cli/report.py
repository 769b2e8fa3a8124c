"""``quiltwork report``: scores as one page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.inputs import print_json, say
from quiltwork.errors import InvalidOption

NAME = "report"
HELP = """Draw scores as one self-contained HTML page, with PNG plots and JSON beside it.

Several score files are merged: every owner can evaluate on its own machine and hand over numbers only."""
EXAMPLES = """Examples:

`quiltwork report scores.json --out report.html`

`quiltwork report acme.json globex.json --out report.html`"""


def run(
    scores: Annotated[list[Path], typer.Argument(help="Files that `quiltwork evaluate` wrote.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    json: Annotated[bool, typer.Option("--json", help="Print the paths written as JSON.")] = False,
) -> None:
    """Draw scores as one self-contained HTML page."""
    from quiltwork.evaluate.merging import merge
    from quiltwork.evaluate.report import write_report
    from quiltwork.evaluate.scores import load_scores

    if len(scores) > 1 and any(path.resolve() == out.with_suffix(".json").resolve() for path in scores):
        raise InvalidOption(
            f"report '{out}'",
            why=f"the merged numbers go to '{out.with_suffix('.json')}', which is one of the files to merge",
            mend="Choose another --out.",
        )
    written = write_report(merge(*(load_scores(path) for path in scores)), out)
    if json:
        print_json([str(path) for path in written])
    else:
        say(f"wrote {written[0]} and {len(written) - 1} files beside it")
