"""What several verbs do with composed mixtures and the rows of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.cli.inputs import say
from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from quiltwork.composite import TableComposite
    from quiltwork.models.mixture.design import Array
    from quiltwork.models.mixture.experts import Response
    from quiltwork.models.mixture.local import Table
    from quiltwork.party.table import TableFragment

TASKS = {"gaussian": "regression", "multinomial": "classification", "poisson": "counts"}


def is_table(directory: Path) -> bool:
    """Whether a directory holds a composed mixture; False for every other model.

    Raises:
        CheckpointError: it holds provenance that cannot be read.
    """
    from quiltwork.composite import PROVENANCE, saved_kind

    return (directory / PROVENANCE).is_file() and saved_kind(directory) == "table"


def open_mixture(directory: Path) -> TableComposite:
    """A composed mixture of experts.

    Raises:
        InvalidOption: the directory holds something else, or nothing.
        CheckpointError: a file in it was changed.
    """
    from quiltwork.compose.reopen import open_table_composite

    if not is_table(directory):
        raise InvalidOption(
            f"model '{directory}'",
            why="it is no composed mixture of experts on a table",
            mend="Name a directory that quiltwork compose wrote with one of its methods for tables.",
        )
    return open_table_composite(directory)


def open_mixtures(models: Mapping[str, Path]) -> tuple[dict[str, TableComposite], Table]:
    """Composed mixtures of one table by name, and that table.

    Raises:
        InvalidOption: one is none, or of another table.
        CheckpointError: a file was changed.
    """
    composites = {name: open_mixture(path) for name, path in models.items()}
    (first, one), *others = composites.items()
    for name, other in others:
        if other.table != one.table:
            raise InvalidOption(
                f"model '{name}'",
                why=f"it is of another table than '{first}': other features, units, target or classes",
                mend="Evaluate it apart.",
            )
    return composites, one.table


def held_out_rows(table: Table, files: Mapping[str, Sequence[Path]], missing: str) -> dict[str, Any]:
    """Covariates and responses by name, classes by their labels.

    Raises:
        FragmentError: as `rows_of`.
    """
    found = {name: rows_of(table, paths, missing) for name, paths in files.items()}
    if table.classes is None:
        return dict(found)
    return {name: (x, [table.classes[code] for code in y]) for name, (x, y) in found.items()}


def rows_of(table: Table, paths: Sequence[Path], missing: str = "refuse") -> tuple[Array, Response]:
    """Covariates and responses of some files, by the table's own names, classes and task.

    Raises:
        FragmentError: a file cannot be read, a column is absent, a value is missing, or there are no rows.
    """
    import numpy as np

    blocks = list(table_fragment(table, paths, table.target, missing).blocks())
    _require_rows(blocks, paths)
    return np.concatenate([b.x for b in blocks]), np.concatenate([b.y for b in blocks])


def covariates_of(table: Table, paths: Sequence[Path], missing: str = "refuse") -> Array:
    """Covariates of some files, by the table's own names; the files need no target.

    Raises:
        FragmentError: as `rows_of`.
    """
    import numpy as np

    blocks = list(table_fragment(table, paths, (), missing).blocks())
    _require_rows(blocks, paths)
    return np.concatenate([b.x for b in blocks])


def table_fragment(table: Table, paths: Sequence[Path], target: tuple[str, ...], missing: str) -> TableFragment:
    """Files as rows of a known table; ``target`` is empty for covariates alone.

    Raises:
        FragmentError: a file cannot be read, or lacks a column.
    """
    from quiltwork.party.table import open_table

    return open_table(
        paths,
        target=target,
        features=table.features,
        units=table.units,
        task=TASKS[table.family] if target else "regression",  # type: ignore[arg-type]
        classes=table.classes if target else None,
        missing=missing,  # type: ignore[arg-type]
    )


def _require_rows(blocks: Sequence[Any], paths: Sequence[Path]) -> None:
    if not sum(len(block) for block in blocks):
        raise InvalidOption(
            f"table '{paths[0]}'", why="it holds no complete row", mend="Give a file with rows that have all columns."
        )


def told(composite: TableComposite, out: Path) -> dict[str, Any]:
    """Say what was written, who was excluded and why; what quiltwork.json says of it."""
    from quiltwork.composite import PROVENANCE
    from quiltwork.models.json_files import read_json

    solution, parties = composite.solution, len(composite.parties)
    experts = solution.mixture.n_experts
    say(
        f"wrote {out}: {composite.method.name} of {parties} {'party' if parties == 1 else 'parties'}, {experts} experts"
    )
    for party, reason in solution.excluded.items():
        say(f"excluded {party}: {reason}")
    for note in solution.notes:
        say(f"note: {note}")
    return read_json(out / PROVENANCE) | {"path": str(out)}
