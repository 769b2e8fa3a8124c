"""``quiltwork contribute likelihoods``: how likely the party's rows are under models that someone composed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.contribute.handover import show
from quiltwork.cli.contribute.sealing import seal_for_tables
from quiltwork.cli.inputs import say
from quiltwork.cli.tables import open_mixtures, table_fragment
from quiltwork.cli.trusting import RevocationKeys, Revocations, refuse_revoked

NAME = "likelihoods"
HELP = """State how likely your rows are under composed mixtures of experts: one number each, and nothing else leaves.

Whoever composes adds the parties' answers up and chooses among the candidates: `quiltwork choose`."""
EXAMPLES = """Example:

`quiltwork contribute likelihoods --data part.parquet --candidate k2 --candidate k3 --party a --out answer --json`"""


def run(
    data: Annotated[list[Path], typer.Option(help="CSV, Parquet or NumPy; a file or directory. Repeatable.")],
    candidate: Annotated[list[Path], typer.Option(help="A composed mixture of experts. Repeatable.")],
    party: Annotated[str, typer.Option(help="Your name in the composed model: a-z, 0-9, - and _.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    missing: Annotated[str, typer.Option(help="What becomes of rows with a missing value: refuse or drop.")] = "refuse",
    licence: Annotated[str, typer.Option(help="Licence of the answer (SPDX).")] = "LicenseRef-unstated",
    confine: Annotated[
        bool, typer.Option(help="Seal this process: it can open data, candidates and the directory it writes to.")
    ] = False,
    trust: RevocationKeys = None,
    revocations: Revocations = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing contribution.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """State how likely your rows are under composed mixtures of experts."""
    refuse_revoked(candidate, trust, revocations)
    scratch = out.with_name(f".{out.name}.scratch")
    sealing = seal_for_tables([*data, *candidate], out, scratch) if confine else "off"
    say(f"confinement: {sealing}")
    from quiltwork.party.answers import answer_candidates

    try:
        composites, table = open_mixtures({str(path): path for path in candidate})
        contribution = answer_candidates(
            table_fragment(table, data, table.target, missing),
            [composite.mixture for composite in composites.values()],
            out,
            party,
            licence=licence,
            overwrite=overwrite,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    show(contribution, out, sealing, json=json)
