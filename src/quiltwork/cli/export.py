"""``quiltwork export``: a composed network as one file for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from quiltwork.cli.inputs import print_json, say
from quiltwork.cli.networks import open_network
from quiltwork.cli.trusting import RevocationKeys, Revocations, refuse_revoked
from quiltwork.errors import InvalidOption

NAME = "export"
HELP = """Write a composed network as one file for use elsewhere: ONNX, or a torch.export program.

Raw inputs in the declared units go in, in batches of any size; normalisation, weights and the combination are inside.
Provenance is not: who is in the model, and how to take them out, stays in the directory. A language model needs no
export, since its directory is a checkpoint."""
EXAMPLES = """Examples:

`quiltwork export composed --out model.onnx`

`quiltwork export stitched --out ensemble.pt2 --setting ensemble`"""


def run(
    composed: Annotated[Path, typer.Argument(help="Composed networks.")],
    out: Annotated[Path, typer.Option(help="File to write.")],
    form: Annotated[str | None, typer.Option("--format", help="pt2 or onnx. [default: by the file's ending]")] = None,
    setting: Annotated[
        str | None, typer.Option(help="Of a stitched network: a party, ensemble or stitched. [default: stitched]")
    ] = None,
    trust: RevocationKeys = None,
    revocations: Revocations = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a composed network as one file for use elsewhere."""
    chosen = form or out.suffix.removeprefix(".")
    if chosen not in ("pt2", "onnx"):
        what = f"--format {form}" if form else f"--out '{out}'"
        raise InvalidOption(what, why="it names no format", mend="Choose --format pt2 or --format onnx.")
    refuse_revoked([composed], trust, revocations)
    known: Any = chosen
    composite = open_network(composed)
    composite.export(out, known, setting=setting)
    shape = ", ".join(map(str, composite.task.shape))
    say(f"wrote {out}: {chosen}, inputs [n, {shape}] in {composite.task.units}, {out.stat().st_size:,} bytes")
    if json:
        print_json({"path": str(out), "format": chosen, "bytes": out.stat().st_size, "setting": setting})
