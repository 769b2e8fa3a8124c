"""Names of a table: which columns play which role, checked before any value is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from quiltwork.errors import FragmentError, InvalidOption
from quiltwork.party.sheets import Sheet

Task = Literal["regression", "classification", "counts"]
Missing = Literal["refuse", "drop"]

_LONGEST_NAME = 200


def require_options(responses: tuple[str, ...], task: str, classes: Sequence[str] | None, missing: str) -> None:
    """Refuse a task or a rule that there is not, and targets or classes that do not fit the task."""
    if task not in get_args(Task):
        raise InvalidOption(f"task '{task}'", why="there is no such task", mend=f"Use {', '.join(get_args(Task))}.")
    if missing not in get_args(Missing):
        raise InvalidOption(f"missing '{missing}'", why="there is no such rule", mend="Use refuse or drop.")
    if task != "regression" and len(responses) > 1:
        raise InvalidOption(f"targets {list(responses)}", why=f"{task} has one response", mend="Name one target.")
    if classes is not None and task != "classification":
        raise InvalidOption("classes", why=f"{task} has none", mend="Leave them out, or ask for classification.")
    if classes is not None and (len(classes) < 2 or len(set(map(str, classes))) < len(classes)):
        raise InvalidOption("classes", why="they are fewer than two, or one is named twice", mend="Name each once.")


def unique_names(sheet: Sheet) -> tuple[str, ...]:
    """The columns of a sheet, each of another name."""
    names = sheet.names()
    double = [name for i, name in enumerate(names) if name in names[:i]]
    if double:
        raise FragmentError(
            f"{sheet.place} column '{double[0]}'", why="two columns have that name", mend="Rename one of them."
        )
    return names


def require_names(features: tuple[str, ...], responses: tuple[str, ...], weight: str | None, place: str) -> None:
    """Refuse roles that share a column, no feature at all, and names that no manifest could hold."""
    if not features:
        raise FragmentError(place, why="it has no column but target and weight", mend="Add covariates.")
    names = [*responses, *([weight] if weight is not None else []), *features]
    double = [name for i, name in enumerate(names) if name in names[:i]]
    if double:
        raise InvalidOption(
            f"column '{double[0]}'", why="it is named twice among target, weight and features", mend="Name it once."
        )
    for name in names:
        if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
            raise FragmentError(
                f"{place} column {name[:_LONGEST_NAME]!r}",
                why=f"a name is 1 to {_LONGEST_NAME} printable characters",
                mend="Rename the column, or name the features without it.",
            )


def require_columns(sheet: Sheet, names: tuple[str, ...], wanted: Sequence[str]) -> None:
    """Refuse a sheet that lacks one of the columns ``wanted``."""
    absent = [name for name in wanted if name not in names]
    if absent:
        listed = ", ".join(f"'{name}'" for name in names[:20]) + (", ..." if len(names) > 20 else "")
        raise FragmentError(
            f"{sheet.place} column '{absent[0]}'",
            why=f"there is no such column; it has {listed or 'none'}",
            mend="Correct the name, or check the header and its delimiter.",
        )


def units_of(features: tuple[str, ...], units: Mapping[str, str] | Sequence[str] | None) -> tuple[str, ...]:
    """One unit a feature, from a mapping or a sequence; ``""`` where unstated."""
    if units is None:
        return ("",) * len(features)
    if not isinstance(units, Mapping):
        if isinstance(units, str) or len(units) != len(features):
            raise InvalidOption("units", why=f"{len(features)} features have as many", mend="Give one each.")
        return tuple(units)
    unknown = [name for name in units if name not in features]
    if unknown:
        raise InvalidOption(f"unit of '{unknown[0]}'", why="no feature has that name", mend="Correct the name.")
    return tuple(units.get(name, "") for name in features)
