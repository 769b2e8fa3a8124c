"""Names in a score matrix: of models, parties and further columns, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from quiltwork.errors import InvalidOption


def require_names(
    models: Collection[str],
    parties: Collection[str],
    public: Collection[str],
    leave_one_out: Sequence[str],
    composites: Collection[str],
    *,
    columns: str,
) -> None:
    """Refuse names that would mean two things, or nothing.

    Args:
        models: names of all models.
        parties: of the parties.
        public: of further columns.
        leave_one_out: of the composites to score without each party.
        composites: of the composites among the models.
        columns: what a column holds, in the plural, for the error.

    Raises:
        InvalidOption: a further column has a party's name, or what is to be left out of is no composite.
    """
    for name in sorted(set(public) & set(parties)):
        raise InvalidOption(f"{columns} '{name}'", why="a party has that name", mend=f"Rename the public {columns}.")
    for name in sorted(set(leave_one_out) - set(composites)):
        raise InvalidOption(
            f"leave_one_out {name!r}",
            why="no composite of that name is among the models" if name in models else "there is no such model",
            mend=f"Choose among: {', '.join(composites) or 'none'}.",
        )
