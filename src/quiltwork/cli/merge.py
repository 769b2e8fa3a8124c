"""``quiltwork merge``: whole checkpoints in, one checkpoint out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from quiltwork.cli.inputs import print_json, printable_name, say, weights
from quiltwork.errors import InvalidOption

NAME = "merge"
HELP = """Merge whole checkpoints of one architecture.

Without `--base` the result is their weighted mean; with it, task arithmetic: the base plus the weighted sum of the
models' differences from it, times `--scale`. The checkpoints are dense, of one family, one tokenizer and one dtype;
what does not fit is refused by name. They are nobody's contributions: nothing can be taken out again (for that, have
owners contribute and use `quiltwork compose`). Memory does not grow with the models, and torch is not needed.

Config and tokenizer are the base's, else those of the first model by name; merge.json in the result records the digest
of every model and of every file, which `quiltwork verify` holds the directory against."""
EXAMPLES = """Examples:

`quiltwork merge poems recipes laws --out merged`

`quiltwork merge poems recipes --weight poems=2 --out merged`

`quiltwork merge poems recipes --base BASE --scale 0.7 --out merged`"""


def run(
    models: Annotated[list[Path], typer.Argument(help="Checkpoint directories.")],
    out: Annotated[Path, typer.Option(help="Directory to write.")],
    weight: Annotated[
        list[str] | None,
        typer.Option(
            help="How much a model counts: MODEL=WEIGHT, the directory as given or its name. Repeatable. [default: 1]"
        ),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="Checkpoint that the models started from: their differences from it are merged.")
    ] = None,
    scale: Annotated[float, typer.Option(help="With --base: the sum of differences is multiplied by this.")] = 1.0,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing directory.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Merge whole checkpoints of one architecture."""
    from quiltwork.compose.checkpoints import Merge
    from quiltwork.compose.merged import RECORD
    from quiltwork.files import require_absent
    from quiltwork.models.base import open_base
    from quiltwork.models.json_files import read_json

    require_absent(out, overwrite)
    names = names_of(models)
    merge = Merge(
        models={name: open_base(path, what="checkpoint") for name, path in names.items()},
        weights=_weights(weight or [], names),
        base=open_base(base) if base else None,
        scale=scale,
    )
    merge.save(out, overwrite=overwrite, progress=True)
    record = read_json(out / RECORD)
    say(f"wrote {out}: {record['method']} of {', '.join(names)}")
    if json:
        print_json(record | {"path": str(out)})


def names_of(paths: Sequence[Path]) -> dict[str, Path]:
    """The checkpoints by the names of their directories.

    Raises:
        InvalidOption: two have one name, or a name that no table can show.
    """
    table: dict[str, Path] = {}
    for path in paths:
        name = printable_name(Path(os.path.abspath(path)).name)
        if name in table:
            mend = "Give each model once (--weight makes one count more), or rename a directory."
            raise InvalidOption(f"checkpoint '{path}'", why=f"another one is called '{name}' too", mend=mend)
        table[name] = path
    return table


def _weights(arguments: Sequence[str], names: dict[str, Path]) -> dict[str, float]:
    given = {str(path): name for name, path in names.items()}
    return {given.get(one, one): value for one, value in weights(arguments).items()}
