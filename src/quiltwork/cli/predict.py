"""``quiltwork predict``: what a composed model says of the rows of a table, or of images and other inputs."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quiltwork.cli import predict_network
from quiltwork.cli.inputs import numbers, print_json, say
from quiltwork.cli.networks import is_network
from quiltwork.cli.tables import covariates_of, open_mixture
from quiltwork.cli.trusting import RevocationKeys, Revocations, refuse_revoked
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.composite import TableComposite
    from quiltwork.models.mixture.design import Array

NAME = "predict"
HELP = """Predict the target of each row of a table with a composed mixture of experts, or of each input with networks.

The file written has the rows in their order, and a column for each prediction: the mean of a number, the likeliest
class and every class's probability; of a mixture with --quantiles those too, and with --explain the expert that counts
most and the weights of all. Inputs of networks are a NumPy archive with an array `inputs`, a directory of directories
of images, or a table."""
EXAMPLES = """Examples:

`quiltwork predict composed --data new.parquet --out predictions.parquet`

`quiltwork predict composed --data new.csv --out predictions.csv --quantiles 0.05,0.5,0.95 --explain`

`quiltwork predict composed-networks --data new.npz --out predictions.csv`"""
_FORMATS = (".csv", ".parquet")


def run(
    model: Annotated[Path, typer.Argument(help="A composed mixture of experts on a table, or composed networks.")],
    data: Annotated[list[Path], typer.Option(help="CSV, Parquet or NumPy; a file or directory. Repeatable.")],
    out: Annotated[Path, typer.Option(help="File to write: .csv, .parquet, or .npz (networks).")],
    quantiles: Annotated[
        str | None, typer.Option(help="Also write these quantiles: levels between 0 and 1, separated by commas.")
    ] = None,
    explain: Annotated[
        bool, typer.Option(help="Write the weights of all experts too, and say which answers where.")
    ] = False,
    missing: Annotated[str, typer.Option(help="What becomes of rows with a missing value: refuse or drop.")] = "refuse",
    trust: RevocationKeys = None,
    revocations: Revocations = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Predict the target of each row of a table, or of each input."""
    refuse_revoked([model], trust, revocations)
    of_networks = is_network(model)
    formats = predict_network.FORMATS if of_networks else _FORMATS
    if out.suffix not in formats:
        raise InvalidOption(
            f"--out '{out}'", why="its ending names no format", mend=f"End it in {' or '.join(formats)}."
        )
    if of_networks:
        _require_tables_only({"--quantiles": quantiles, "--explain": explain})
        columns = predict_network.predictions(model, data)
        _write(columns, predict_network.written(columns, out.suffix), out, json)
    else:
        columns = _of_table(model, data, quantiles, explain, missing)
        _write(columns, _written(columns, out.suffix), out, json)


def _require_tables_only(stated: dict[str, object]) -> None:
    for name, value in stated.items():
        if value:
            raise InvalidOption(
                name, why="it is of mixtures on tables, and the model is of networks", mend="Leave it out."
            )


def _write(columns: dict[str, Any], content: bytes, out: Path, json: bool) -> None:
    from quiltwork.files import write_file

    rows = len(next(iter(columns.values())))
    write_file(out, content)
    if json:
        print_json({"path": str(out), "rows": rows, "columns": list(columns)})
    else:
        say(f"wrote {out}: {rows:,} rows of {', '.join(list(columns)[:8])}{', ...' if len(columns) > 8 else ''}")


def _of_table(model: Path, data: list[Path], quantiles: str | None, explain: bool, missing: str) -> dict[str, Any]:
    """Columns of what a composed mixture says of the rows of some files."""
    levels = _levels(quantiles) if quantiles else []
    composite = open_mixture(model)
    x = covariates_of(composite.table, data, missing)
    columns = _predictions(composite, x) | _quantiles(composite, x, levels)
    if explain:
        columns |= _experts(composite, x)
        say(_story(composite, x))
    return columns


def _levels(argument: str) -> list[float]:
    levels = numbers(argument, "--quantiles")
    if not all(0 < level < 1 for level in levels):
        raise InvalidOption(
            f"--quantiles '{argument}'", why="a level lies between 0 and 1", mend="Write 0.05,0.5,0.95, say."
        )
    return levels


def _predictions(composite: TableComposite, x: Array) -> dict[str, Any]:
    import numpy as np

    table = composite.table
    if table.classes is not None:
        probabilities = composite.mixture.mean(x)
        best = np.asarray(table.classes)[probabilities.argmax(axis=1)]
        named = zip(table.classes, probabilities.T, strict=True)
        return {table.target[0]: best} | {f"{table.target[0]}={name}": column for name, column in named}
    return dict(zip(table.target, composite.mixture.mean(x).T, strict=True))


def _quantiles(composite: TableComposite, x: Array, levels: list[float]) -> dict[str, Any]:
    import numpy as np

    from quiltwork.models.mixture.quantiles import quantiles

    if not levels:
        return {}
    if composite.table.classes is not None:
        raise InvalidOption("--quantiles", why="classes have no order", mend="Leave it out; probabilities are written.")
    values = quantiles(composite.mixture, x, np.array(levels))
    return {
        f"{name}@{level:g}": values[:, j, i]
        for j, name in enumerate(composite.table.target)
        for i, level in enumerate(levels)
    }


def _experts(composite: TableComposite, x: Array) -> dict[str, Any]:
    """The expert of largest weight, by its number from 0, and the weights of all."""
    import numpy as np

    gate = np.exp(composite.mixture.log_gate(x))
    return {"expert": gate.argmax(axis=1)} | {f"weight of expert {k}": gate[:, k] for k in range(gate.shape[1])}


def _story(composite: TableComposite, x: Array) -> str:
    """Which expert answers where, over these rows."""
    import numpy as np

    from quiltwork.models.mixture.explain import explain

    table, scale = composite.table, x.std(axis=0)
    story = explain(
        composite.mixture,
        x,
        centre=x.mean(axis=0),
        scale=np.where(scale > 0, scale, 1.0),
        features=table.features,
        outputs=table.classes or table.target,
    )
    return str(story)


def _written(columns: dict[str, Any], ending: str) -> bytes:
    """The columns as a file's content."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet

    table, target = pa.table({name: pa.array(values) for name, values in columns.items()}), io.BytesIO()
    if ending == ".csv":
        pa.csv.write_csv(table, target)
    else:
        pa.parquet.write_table(table, target)
    return target.getvalue()
