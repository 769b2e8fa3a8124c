"""``quiltwork evaluate``: the score matrix of models on held-out data."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quiltwork.cli.evaluate_networks import score_network_models
from quiltwork.cli.evaluate_tables import score_tables
from quiltwork.cli.evaluate_text import Sizes, score_text
from quiltwork.cli.inputs import HeldOutPaths, named_directories, say
from quiltwork.cli.networks import is_network
from quiltwork.cli.tables import is_table
from quiltwork.cli.trusting import RevocationKeys, Revocations, refuse_revoked
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.evaluate.scores import Scores

NAME = "evaluate"
HELP = """Score composed models on held-out data: lower is better.

Language models are scored on text, in bits per byte, and need --base. Mixtures of experts are scored on rows of tables,
in nats per row (negative log-likelihood); networks on inputs with labels, in shares of wrong answers or squared errors.
Rows: the public base, each composed model, each party alone (for language models with --contribution), the ensemble of
all networks, each model without each party (with --leave-one-out). An owner who may not share held-out data runs this
at home, on its own only, and hands over the numbers: `quiltwork report` merges them."""
EXAMPLES = """Examples:

`quiltwork evaluate composed native --base BASE --party acme=acme-test.txt --public wiki=wiki.txt --out scores.json`

`quiltwork evaluate native --base BASE --party acme=test/ --contribution acme --contribution globex --json`

`quiltwork evaluate composed --party a=a-test.parquet --party b=b-test.csv --leave-one-out reduction --json`

`quiltwork evaluate evidence=composed stitch=stitched --party ash=ash-test.npz --party oak=oak-test/ --json`"""
_MOST_COLUMNS = 12
"""More domains than a screen is wide; the scores as JSON and the report have them all."""
_TEXT, _TABLES, _NETWORKS = "Language models", "Mixtures of tables", "Networks"


def run(
    models: Annotated[list[Path], typer.Argument(help="Composed models, or NAME=DIRECTORY.")],
    party: Annotated[list[str] | None, typer.Option(help="PARTY=held-out data. Repeatable.")] = None,
    public: Annotated[list[str] | None, typer.Option(help="DOMAIN=held-out public data. Repeatable.")] = None,
    contribution: Annotated[
        list[Path] | None, typer.Option(help="Contributions, for the rows of each party alone. Repeatable.")
    ] = None,
    leave_one_out: Annotated[
        list[str] | None,
        typer.Option(help="Name of a model that is also scored without each of its parties. Repeatable."),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="Directory of the public base checkpoint.", rich_help_panel=_TEXT)
    ] = None,
    max_length: Annotated[
        int, typer.Option(help="How many tokens the model sees at once.", rich_help_panel=_TEXT)
    ] = 192,
    max_bytes: Annotated[
        int | None,
        typer.Option(help="Score at most so many bytes of text of each domain. [default: all]", rich_help_panel=_TEXT),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(help="How many such windows are scored at a time.", rich_help_panel=_TEXT)
    ] = 16,
    device: Annotated[
        str, typer.Option(help="Where torch computes: cpu, cuda, mps and the like.", rich_help_panel=_TEXT)
    ] = "cpu",
    samples: Annotated[
        bool,
        typer.Option(
            help="Keep the first tokens of a document a domain, and who answered each: text, not numbers.",
            rich_help_panel=_TEXT,
        ),
    ] = False,
    missing: Annotated[
        str, typer.Option(help="What becomes of rows with a missing value: refuse or drop.", rich_help_panel=_TABLES)
    ] = "refuse",
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="Columns of labels, where held-out inputs are rows of a table. Repeatable.", rich_help_panel=_NETWORKS
        ),
    ] = None,
    trust: RevocationKeys = None,
    revocations: Revocations = None,
    out: Annotated[Path | None, typer.Option(help="Score file to write.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score composed models on held-out data."""
    if not party and not public:
        raise typer.BadParameter("give held-out data with --party NAME=PATH or --public NAME=PATH")
    from quiltwork.evaluate.scores import save_scores

    data = HeldOutPaths.of(party or [], public or [])
    named = named_directories(models)
    refuse_revoked({**named, **({"base": base} if base else {})}, trust, revocations, contribution or [])
    if _all_of(named, base, is_table, "mixtures on tables"):
        scores = score_tables(named, data, contribution or [], leave_one_out or [], missing)
    elif _all_of(named, base, is_network, "composed networks"):
        scores = score_network_models(named, data, contribution or [], leave_one_out or [], target or [])
    else:
        sizes = Sizes(max_length, max_bytes, batch_size, device, samples)
        scores = score_text(named, base, data, contribution or [], leave_one_out or [], sizes)
    if out is not None:
        save_scores(scores, out)
        say(f"wrote {out}")
    if json:
        print(scores.to_json())
    else:
        print_scores(scores)


def _all_of(models: Mapping[str, Path], base: Path | None, is_one: Callable[[Path], bool], what: str) -> bool:
    """Whether all models are of one ground that has no base.

    Raises:
        InvalidOption: some are and some are not, or a base is given for them.
    """
    found = [name for name, path in models.items() if is_one(path)]
    if found and len(found) < len(models):
        raise InvalidOption(
            f"model '{found[0]}'",
            why=f"it is one of {what}, and another model is of another kind",
            mend="Evaluate them apart.",
        )
    if found and base is not None:
        raise InvalidOption("--base", why=f"{what} have no base", mend="Leave it out.")
    return bool(found)


def print_scores(scores: Scores) -> None:
    """The matrix as a table for people, best value of a column in bold, and a verdict for each party."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from quiltwork.evaluate import insight

    rows = [(name, row) for name, row in scores.methods.items()]
    rows += [(f"{p} alone", row) for p, row in scores.alone.items()]
    shown = scores.domains if len(scores.domains) <= _MOST_COLUMNS else ()
    best = {d: min(row.domains[d].value for _, row in rows if d in row.domains) for d in shown}
    sized = any(row.active_params is not None for _, row in rows)
    table = Table(title=f"{scores.metric} on {scores.measure.material} (lower is better)", box=box.SIMPLE_HEAD)
    table.add_column("model", no_wrap=True)
    for column in (*shown, "parties' mean", *["active (M)"] * sized):
        table.add_column(escape(column), justify="right")
    for name, row in rows:
        cells = [f"{row.domains[d].value:.3f}" if d in row.domains else "" for d in shown]
        marked = [
            f"[bold]{c}[/bold]" if c and row.domains[d].value == best[d] else c
            for c, d in zip(cells, shown, strict=True)
        ]
        own = [row.domains[p].value for p in scores.parties if p in row.domains]
        mean = f"{sum(own) / len(own):.3f}" if own else ""
        active = "" if row.active_params is None else f"{row.active_params / 1e6:.2f}"
        table.add_row(escape(name), *marked, mean, *[active] * sized)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    for sentence in insight.verdicts(scores):
        console.print(sentence, markup=False)
