"""``quiltwork evaluate``: the score matrix of models on held-out text."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quiltwork.cli.inputs import check_device, documents_of, named_paths, printable_name, read_contributions, say
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.composite import Composite
    from quiltwork.evaluate.scores import Scores
    from quiltwork.models.base import Base

NAME = "evaluate"
HELP = """Score composed models on held-out text, in bits per byte: lower is better.

Rows: the public base, each composed model, each party alone (with --contribution), each model without each party (with
--leave-one-out). An owner who may not share held-out text runs this at home, on its own text only, and hands over the
numbers: `quiltwork report` merges them."""
EXAMPLES = """Examples:

`quiltwork evaluate composed native --base BASE --party acme=acme-test.txt --public wiki=wiki.txt --out scores.json`

`quiltwork evaluate native --base BASE --party acme=test/ --contribution acme --contribution globex --json`"""


def run(
    models: Annotated[list[Path], typer.Argument(help="Composed checkpoints, or NAME=DIRECTORY.")],
    base: Annotated[Path, typer.Option(help="Directory of the public base checkpoint.")],
    party: Annotated[list[str] | None, typer.Option(help="PARTY=held-out text. Repeatable.")] = None,
    public: Annotated[list[str] | None, typer.Option(help="DOMAIN=held-out public text. Repeatable.")] = None,
    contribution: Annotated[
        list[Path] | None, typer.Option(help="Contributions, for the rows of each party alone. Repeatable.")
    ] = None,
    leave_one_out: Annotated[
        list[str] | None, typer.Option(help="Also score this model without each party. Repeatable.")
    ] = None,
    max_length: Annotated[int, typer.Option(help="Tokens a window.")] = 192,
    max_bytes: Annotated[int | None, typer.Option(help="Score at most so much text a domain.")] = None,
    batch_size: Annotated[int, typer.Option(help="Windows at a time.")] = 16,
    device: Annotated[str, typer.Option(help="cpu, cuda, mps, ...")] = "cpu",
    samples: Annotated[
        bool,
        typer.Option(help="Keep the first tokens of a document a domain, and who answered each: text, not numbers."),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Score file to write.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score composed models on held-out text."""
    if not party and not public:
        raise typer.BadParameter("give held-out text with --party NAME=PATH or --public NAME=PATH")
    from quiltwork.evaluate.matrix import Candidates, HeldOut, score_matrix
    from quiltwork.evaluate.scores import save_scores
    from quiltwork.models.base import open_base, separator_id

    opened = open_base(base)
    tokenizer = opened.load_tokenizer()
    parties, publics = named_paths(party or [], "--party"), named_paths(public or [], "--public")
    for name in parties.keys() & publics.keys():
        raise InvalidOption(
            f"domain '{name}'", why="it is given as a party's and as public", mend="Rename one of them."
        )
    domains = {name: documents_of(paths, max_bytes) for name, paths in (parties | publics).items()}
    methods, others = _models(models, opened)
    alone = _alone(contribution or [], opened, tuple(parties))
    for name in publics.keys() & {p for composite in methods.values() for p in composite.parties}:
        raise InvalidOption(f"domain '{name}'", why="a party of the model has that name", mend="Rename the domain.")
    scores = score_matrix(
        Candidates(
            base=opened.load_model,
            methods=methods,
            alone=alone,
            leave_one_out=_known(leave_one_out or [], methods),
            others=others,
        ),
        tokenizer,
        HeldOut(domains, tuple(parties), max_length, batch_size),
        prefix=separator_id(tokenizer),
        sample_methods=tuple(methods) if samples else (),
        device=check_device(device),
        on_row=lambda row: say(f"scoring {row}"),
    ).model_copy(update={"base": opened.digest})
    if out is not None:
        save_scores(scores, out)
        say(f"wrote {out}")
    if json:
        print(scores.to_json())
    else:
        print_scores(scores)


def _models(paths: list[Path], base: Base) -> tuple[dict[str, Composite], dict[str, Callable[[], Any]]]:
    """Composites that come apart, by name; and dense ones, as loaders."""
    from quiltwork.composite import PROVENANCE, open_composite
    from quiltwork.errors import ExportError
    from quiltwork.models.base import open_base, read_json

    methods: dict[str, Composite] = {}
    others: dict[str, Callable[[], Any]] = {}
    for argument in paths:
        name, _, rest = ("", "", str(argument)) if argument.exists() else str(argument).rpartition("=")
        path = Path(rest)
        known = read_json(path / PROVENANCE).get("method") if (path / PROVENANCE).is_file() else None
        name = printable_name(name or str(known or path.name))
        if name in methods or name in others or name == "base":
            raise InvalidOption(
                f"model '{name}'", why="two rows would have that name", mend="Name them: NAME=DIRECTORY."
            )
        try:
            if known is None:
                raise ExportError(str(path), why="it is no composite", mend="")
            methods[name] = _of_base(open_composite(path), path, base)
        except ExportError:
            dense = open_base(path)
            if dense.tokenizer_digest != base.tokenizer_digest:
                raise InvalidOption(
                    f"model '{path}'", why="its tokenizer is not the base's", mend="Evaluate it against its own base."
                ) from None
            others[name] = dense.load_model
    return methods, others


def _of_base(composite: Composite, path: Path, base: Base) -> Composite:
    if composite.provenance.base != base.digest:
        raise InvalidOption(
            f"model '{path}'",
            why=f"it was composed on base {composite.provenance.base[:19]}…, and this one is {base.digest[:19]}…",
            mend="Evaluate it against its own base.",
        )
    return composite


def _alone(paths: list[Path], base: Base, parties: tuple[str, ...]) -> dict[str, Composite]:
    from quiltwork.compose.alone import Alone
    from quiltwork.compose.method import compose

    contributions = [c for c in read_contributions(paths) if c.kind == "expert" and c.party in parties]
    return {c.party: compose([c], Alone("full" if "full" in c.parts else "ffn"), base) for c in contributions}


def _known(names: list[str], methods: dict[str, Composite]) -> list[str]:
    for name in names:
        if name not in methods:
            raise InvalidOption(
                f"--leave-one-out {name}",
                why="no composite of that name from which a party can be taken is evaluated",
                mend=f"Choose among: {', '.join(methods) or 'none'}.",
            )
    return names


def print_scores(scores: Scores) -> None:
    """The matrix as a table for people, best value of a column in bold, and a verdict for each party."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from quiltwork.evaluate import insight

    rows = [(name, row) for name, row in scores.methods.items()]
    rows += [(f"{p} alone", row) for p, row in scores.alone.items()]
    best = {d: min(row.domains[d].value for _, row in rows if d in row.domains) for d in scores.domains}
    sized = any(row.active_params is not None for _, row in rows)
    table = Table(title=f"{scores.metric} on {scores.measure.material} (lower is better)", box=box.SIMPLE_HEAD)
    table.add_column("model", no_wrap=True)
    for column in (*scores.domains, "parties' mean", *["active (M)"] * sized):
        table.add_column(escape(column), justify="right")
    for name, row in rows:
        cells = [f"{row.domains[d].value:.3f}" if d in row.domains else "" for d in scores.domains]
        marked = [
            f"[bold]{c}[/bold]" if c and row.domains[d].value == best[d] else c
            for c, d in zip(cells, scores.domains, strict=True)
        ]
        own = [row.domains[p].value for p in scores.parties if p in row.domains]
        mean = f"{sum(own) / len(own):.3f}" if own else ""
        active = "" if row.active_params is None else f"{row.active_params / 1e6:.2f}"
        table.add_row(escape(name), *marked, mean, *[active] * sized)
    console = Console() if sys.stdout.isatty() else Console(width=120)
    console.print(table)
    for sentence in insight.verdicts(scores):
        console.print(sentence, markup=False)
