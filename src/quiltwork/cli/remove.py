"""``quiltwork remove``: take a party out of a composed model, exactly."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli import networks
from quiltwork.cli.inputs import print_json, say
from quiltwork.cli.tables import told

NAME = "remove"
HELP = """Take parties out of a composed model.

The result is byte for byte what composing without them would have written; neither base nor contributions are
needed. An owner who handed over several experts of a language model leaves with all of them, or with one: `--party
acme.code`. The files of those who stay are linked and not copied (`--copy` copies them), except where a public format
numbers experts. A soup is a sum that cannot be taken apart: compose it again without the party. From composed networks
all that the party handed over leaves, what others released about its network, and what was trained on top of either."""
EXAMPLES = """Example:

`quiltwork remove composed --party acme --out composed-without-acme`"""


def run(
    composed: Annotated[Path, typer.Argument(help="A composed model.")],
    party: Annotated[
        list[str],
        typer.Option(help="Who leaves: an owner with all its experts, or one of them, OWNER.SHARE. Repeatable."),
    ],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    copy: Annotated[
        bool, typer.Option("--copy", help="Of a language model, copy every file instead of linking it.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing directory.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Take a party out of a composed model."""
    from quiltwork.compose.reopen import open_any
    from quiltwork.composite import PROVENANCE, NetworkComposite, TableComposite, saved_layout
    from quiltwork.models.json_files import read_json

    composite = open_any(composed)
    for leaving in party:
        composite = composite.without(leaving)
    if isinstance(composite, TableComposite):
        composite.save(out, overwrite=overwrite)
        result = told(composite, out)
    elif isinstance(composite, NetworkComposite):
        composite.save(out, overwrite=overwrite)
        result = networks.told(composite, out)
    else:
        layout = saved_layout(composed)
        composite.save(out, layout=layout, overwrite=overwrite, copy=copy)
        say(f"wrote {out}: {', '.join(composite.parties)} {'remain' if len(composite.parties) > 1 else 'remains'}")
        result = read_json(out / PROVENANCE) | {"path": str(out)}
    if json:
        print_json(result | {"removed": party})
