"""What composed networks say of inputs: ``quiltwork predict`` on images or vectors."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.cli.networks import open_network

if TYPE_CHECKING:
    from quiltwork.composite import NetworkComposite
    from quiltwork.party.examples import Examples

FORMATS = (".csv", ".npz")


def predictions(model: Path, data: Sequence[Path]) -> dict[str, Any]:
    """Columns of what a composite says of some files: the likeliest class and each one's probability, or numbers."""
    composite = open_network(model)
    outputs = _outputs(composite, inputs_of(composite, data))
    if composite.task.classes is None:
        return {f"output {number}": column for number, column in enumerate(outputs.T)}
    import numpy as np

    best = np.asarray(composite.task.classes)[outputs.argmax(axis=1)]
    return {"class": best} | {f"class={name}": p for name, p in zip(composite.task.classes, outputs.T, strict=True)}


def inputs_of(composite: NetworkComposite, data: Sequence[Path]) -> Examples:
    """Inputs of some files, in the shape and the units of the composite's task.

    Raises:
        FragmentError: a file cannot be read, or an input is outside the units.
        InvalidOption: the inputs are of another shape.
    """
    from quiltwork.party.images import open_examples

    task = composite.task
    folder = len(data) == 1 and data[0].is_dir() and len(task.shape) == 3
    options: dict[str, Any] = {"channels": task.shape[0], "size": task.shape[1:]} if folder else {"shape": task.shape}
    kind: Any = "regression" if task.classes is None else "classification"
    return open_examples(data, units=task.units, task=kind, classes=task.classes, **options)


def _outputs(composite: NetworkComposite, examples: Examples) -> Any:
    import numpy as np

    say = composite.predict if composite.task.classes is None else composite.predict_proba
    return np.concatenate([say(batch.inputs) for batch in examples.batches()])


def written(columns: dict[str, Any], ending: str) -> bytes:
    """The columns as the content of a file: a table of text, or an archive of arrays."""
    import numpy as np

    if ending == ".npz":
        archive = io.BytesIO()
        np.savez(archive, **columns)
        return archive.getvalue()
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    return table.getvalue().encode()
