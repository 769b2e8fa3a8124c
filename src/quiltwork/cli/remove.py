"""``quiltwork remove``: take a party out of a composed model, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.inputs import print_json, say

NAME = "remove"
HELP = """Take a party out of a composed mixture or ensemble.

The result is byte for byte what composing without that party would have written; neither base nor contributions are
needed. A soup is a sum that cannot be taken apart: compose it again without the party."""
EXAMPLES = """Example:

`quiltwork remove composed --party acme --out composed-without-acme`"""


def run(
    composed: Annotated[Path, typer.Argument(help="A composed checkpoint.")],
    party: Annotated[str, typer.Option(help="Who leaves.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    overwrite: Annotated[bool, typer.Option(help="Replace an existing directory.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Take a party out of a composed mixture or ensemble."""
    from quiltwork.composite import open_composite, saved_layout

    composite = open_composite(composed).without(party)
    layout = saved_layout(composed)
    composite.save(out, layout=layout, overwrite=overwrite)
    if json:
        print_json(composite.provenance.to_json(layout) | {"path": str(out), "removed": party})
    else:
        say(f"wrote {out}: {', '.join(composite.parties)} remain")
