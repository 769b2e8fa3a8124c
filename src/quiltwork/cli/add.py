"""``quiltwork add``: let parties join a composed mixture of experts, or composed networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli import networks
from quiltwork.cli.inputs import print_json, read_contributions
from quiltwork.cli.tables import open_mixture, told
from quiltwork.cli.trusting import Revocations, TrustFile, trusted

NAME = "add"
HELP = """Let parties join a composed mixture of experts, or composed networks.

The result is byte for byte what composing all of them at once would have written, with the method and the options that
the composed model remembers; the contributions that are in it already are not needed. To networks a party that is in
them may hand over more, stitches that it trained, say. A language model is composed again instead."""
EXAMPLES = """Example:

`quiltwork add composed machine-9 machine-10 --out composed-of-ten`"""


def run(
    composed: Annotated[Path, typer.Argument(help="A composed mixture of experts, or networks.")],
    contributions: Annotated[list[Path], typer.Argument(help="Contribution directories of those who join.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    trust: TrustFile = None,
    revocations: Revocations = None,
    max_bytes: Annotated[int | None, typer.Option(help="Refuse a contribution larger than this.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing directory.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Let parties join a composed mixture of experts, or composed networks."""
    from quiltwork.compose.joining import joined, joined_network

    opened = trusted(trust, revocations)
    if networks.is_network(composed):
        late = read_contributions(contributions, max_bytes)
        network = joined_network(networks.open_network(composed), late, trust=opened)
        network.save(out, overwrite=overwrite)
        result = networks.told(network, out, late)
    else:
        whole = joined(open_mixture(composed), read_contributions(contributions, max_bytes), trust=opened)
        whole.save(out, overwrite=overwrite)
        result = told(whole, out)
    if json:
        print_json(result)
