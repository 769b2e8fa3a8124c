"""``quiltwork report``: scores as one page to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quiltwork.cli.inputs import HeldOutPaths, named_directories, print_json, say
from quiltwork.cli.networks import is_network, open_network
from quiltwork.cli.tables import held_out_rows, open_mixtures
from quiltwork.cli.trusting import RevocationKeys, Revocations, refuse_revoked
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.composite import TableComposite
    from quiltwork.evaluate.plots import Drawing
    from quiltwork.evaluate.scores import Scores

NAME = "report"
HELP = """Draw scores as one self-contained HTML page, with PNG plots and JSON beside it.

Several score files are merged: every owner can evaluate on its own machine and hand over numbers only. With --composite
the page also shows composed mixtures of experts: their experts along the features that matter most, their gates, which
machines took part; and with --party how the likelihood grows with their number. Rows are never drawn unless you ask. Of
composed networks it shows where they could be stitched, by the owners' released statistics alone.

Run directories of `quiltwork split train` make a page of their own: scores of the composed model and of parties alone,
run beside run, training losses, and each run's certificate. A run may be named: NAME=DIRECTORY."""
EXAMPLES = """Examples:

`quiltwork report scores.json --out report.html`

`quiltwork report acme.json globex.json --out report.html`

`quiltwork report scores.json --composite composed --party a=a-test.parquet --party b=b-test.parquet --json`

`quiltwork report run-isolated run-joint --out report.html`"""
_SUMMARY_ROWS = 500
"""Drawn from each machine's summary where no rows are given; they set the ranges that are shown."""


def run(
    scores: Annotated[list[Path], typer.Argument(help="Files that `quiltwork evaluate` wrote, or run directories.")],
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("report.html"),
    composite: Annotated[
        list[Path] | None,
        typer.Option(help="A mixture of experts or networks, composed; or NAME=DIRECTORY."),
    ] = None,
    party: Annotated[
        list[str] | None, typer.Option(help="PARTY=held-out rows, for figures of --composite. Repeatable.")
    ] = None,
    show_rows: Annotated[
        bool, typer.Option(help="Draw the rows of --party as points: they leave their owner with the page.")
    ] = False,
    missing: Annotated[str, typer.Option(help="What becomes of rows with a missing value: refuse or drop.")] = "refuse",
    trust: RevocationKeys = None,
    revocations: Revocations = None,
    json: Annotated[bool, typer.Option("--json", help="Print the paths written as JSON.")] = False,
) -> None:
    """Draw scores as one self-contained HTML page."""
    if (trust or revocations) and not composite:
        why = "it is about composed models, and none is drawn"
        raise InvalidOption("--trust" if trust else "--revocations", why=why, mend="Leave it out, or name --composite.")
    refuse_revoked(named_directories(composite or []), trust, revocations)
    if runs := _runs(scores):
        _written(_sessions(runs, out, composite or party), json)
        return
    from quiltwork.evaluate.merging import merge
    from quiltwork.evaluate.report import write_report
    from quiltwork.evaluate.scores import load_scores

    if len(scores) > 1 and any(path.resolve() == out.with_suffix(".json").resolve() for path in scores):
        raise InvalidOption(
            f"report '{out}'",
            why=f"the merged numbers go to '{out.with_suffix('.json')}', which is one of the files to merge",
            mend="Choose another --out.",
        )
    if party and not composite:
        raise InvalidOption("--party", why="rows are for figures of a composed mixture", mend="Name it: --composite.")
    merged = merge(*(load_scores(path) for path in scores))
    data = HeldOutPaths.of(party or [], [])
    extra = _figures(composite or [], data, merged, show_rows, missing) if composite else []
    _written(write_report(merged, out, extra=extra), json)


def _written(paths: Sequence[Path], json: bool) -> None:
    if json:
        print_json([str(path) for path in paths])
    else:
        say(f"wrote {paths[0]} and {len(paths) - 1} files beside it")


def _runs(inputs: Sequence[Path]) -> list[Path]:
    """The inputs, if they are run directories of split learning, as they were named; none if they are files.

    Raises:
        InvalidOption: some are and some are not.
    """
    places = [path if path.exists() else Path(str(path).rpartition("=")[2]) for path in inputs]
    for place in places:
        _refuse_models(place)
    found = [path for path, place in zip(inputs, places, strict=True) if place.is_dir()]
    if found and len(found) < len(inputs):
        raise InvalidOption(
            f"report of '{found[0]}'",
            why="it is a directory and others are files: scores of sessions are no scores of composed models",
            mend="Make a report of the run directories, and another one of the score files.",
        )
    return found


def _refuse_models(place: Path) -> None:
    """Refuse a directory that is no run, by what it is."""
    if not place.is_dir() or (place / "plan.toml").exists():
        return
    composed = (place / "quiltwork.json").is_file()
    raise InvalidOption(
        f"'{place}'",
        why="it is a composed model, and a report is of scores"
        if composed
        else "it is no run of split learning: it holds no plan.toml",
        mend="Score it first, and name the file: quiltwork evaluate ... --out scores.json."
        if composed
        else "Name score files, or run directories that quiltwork split train wrote.",
    )


def _sessions(runs: Sequence[Path], out: Path, asked: object) -> list[Path]:
    """The page of runs of split learning, and what lies beside it."""
    from quiltwork.audit.page import write_page
    from quiltwork.cli.split.page import accounts

    if asked:
        raise InvalidOption(
            "--composite and --party", why="they are for scores of mixtures", mend="Leave them out for run directories."
        )
    return write_page(accounts(named_directories(runs, by_method=False)), out)


def _figures(paths: Sequence[Path], data: HeldOutPaths, scores: Scores, show_rows: bool, missing: str) -> list[Drawing]:
    """Figures of composed models; of mixtures without rows, ranges come from what the machines released."""
    named = named_directories(paths)
    if any(is_network(path) for path in named.values()):
        return _of_networks(named, data)
    from quiltwork.evaluate.table_report import table_drawings

    composites, table = open_mixtures(named)
    rows = held_out_rows(table, data.parties, missing) if data.parties else _summarised(composites)
    return table_drawings(composites, rows, scores, show_rows=show_rows, curve=bool(data.parties))


def _of_networks(named: Mapping[str, Path], data: HeldOutPaths) -> list[Drawing]:
    """Figures of composed networks, which need no rows."""
    from quiltwork.evaluate.network_report import network_drawings

    if data.parties:
        raise InvalidOption("--party", why="figures of networks are drawn from statistics", mend="Leave it out.")
    return network_drawings({name: open_network(path) for name, path in named.items()})


def _summarised(composites: Mapping[str, TableComposite]) -> dict[str, Any]:
    """For each machine covariates drawn from its summary, with responses drawn from its own fit."""
    import numpy as np

    found: dict[str, Any] = {}
    for number, local in enumerate(local for one in composites.values() for local in one.locals):
        if local.covariates is not None and local.party not in found:
            rng = np.random.default_rng(number)
            x = local.covariates.sample(_SUMMARY_ROWS, rng)
            y, _ = local.mixture.sample(x, rng)
            classes = next(iter(composites.values())).table.classes
            found[local.party] = x, y if classes is None else [classes[code] for code in y]
    if not found:
        raise InvalidOption(
            "--composite",
            why="no machine released a summary of its features, so nothing says which range to draw",
            mend="Give held-out rows with --party NAME=PATH.",
        )
    return found
