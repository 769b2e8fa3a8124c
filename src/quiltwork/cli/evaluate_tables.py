"""The half of ``quiltwork evaluate`` that scores mixtures of experts on rows of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.cli.inputs import HeldOutPaths, read_contributions, say
from quiltwork.cli.tables import held_out_rows, open_mixtures

if TYPE_CHECKING:
    from quiltwork.composite import TableComposite
    from quiltwork.evaluate.scores import Scores
    from quiltwork.models.mixture.local import Table


def score_tables(
    models: Mapping[str, Path],
    data: HeldOutPaths,
    contributions: Sequence[Path],
    leave_one_out: Sequence[str],
    missing: str,
) -> Scores:
    """The score matrix of composed mixtures on rows; the table says which columns are read.

    Raises:
        InvalidOption: the models are of different tables.
        TableMismatch: a contribution is of another table.
        FragmentError: rows cannot be used.
    """
    from quiltwork.evaluate.tables import score_table

    composites, table = open_mixtures(models)
    alone = {local.party: local.mixture for one in composites.values() for local in one.locals}
    return score_table(
        composites,
        held_out_rows(table, data.parties, missing),
        alone=alone | _further(table, next(iter(composites.values())), contributions),
        public=held_out_rows(table, data.public, missing),
        leave_one_out=leave_one_out,
        on_row=lambda row: say(f"scoring {row}"),
    )


def _further(table: Table, composite: TableComposite, paths: Sequence[Path]) -> dict[str, Any]:
    """Mixtures of contributions, for parties that a composite does not hold."""
    from quiltwork.compose.tables import local_of, require_same_table, table_of

    given = read_contributions(paths)
    for contribution in given:
        require_same_table(table, table_of(contribution), composite.parties[0], contribution.party)
    return {contribution.party: local_of(contribution).mixture for contribution in given}
