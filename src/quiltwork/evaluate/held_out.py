"""Held-out rows of tables, as they are given and as they are checked.

Everything that could make a score silently wrong is refused here, by the name of the party and what is wrong with its
rows: another width, a value that is not finite, a class that the models do not know, a count that is none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts, FamilyName, Response
from quiltwork.models.mixture.mixture import Mixture


@dataclass(frozen=True, eq=False)
class HeldOutRows:
    """One party's held-out rows.

    Attributes:
        x: ``[n, d]``; a data frame's columns are put in the order of the table.
        y: ``[n]`` or ``[n, q]`` numbers; for classes ``[n]`` their names, or codes from 0 on where no name is known.
        groups: ``[n]``, which rows belong together; None if rows are independent.
        labels: ``[n]``, the expert that truly gave each row, where a simulation knows it.
    """

    x: ArrayLike
    y: ArrayLike
    groups: ArrayLike | None = None
    labels: ArrayLike | None = None


Rows: TypeAlias = HeldOutRows | tuple[ArrayLike, ArrayLike]


@dataclass(frozen=True, eq=False)
class Column:
    """Rows that were checked: float64 x ``[n, d]``, y as the family has it."""

    x: Array
    y: NDArray[Any]
    groups: NDArray[Any] | None
    labels: NDArray[Any] | None


@dataclass(frozen=True)
class Shape:
    """What the models expect of rows: family, numbers of features and outputs, and names where they are known."""

    family: FamilyName
    n_features: int
    n_outputs: int
    features: tuple[str, ...] | None = None
    classes: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls,
        mixtures: Sequence[Mixture[Experts]],
        features: Sequence[str] | None = None,
        classes: Sequence[object] | None = None,
    ) -> Shape:
        """The one shape of all models.

        Raises:
            InvalidOption: there is no model, or two differ.
        """
        found = {(m.experts.family, m.n_features, m.experts.coefficients.shape[1]) for m in mixtures}
        if len(found) != 1:
            told = ", ".join(f"{family} with {d} features and {q} outputs" for family, d, q in sorted(found))
            why = f"they are of different tables: {told}" if found else "there is none"
            raise InvalidOption("the models", why=why, mend="Score models of one table together, at least one.")
        names = None if classes is None else tuple(map(str, classes))
        return cls(*found.pop(), None if features is None else tuple(features), names)


def checked(given: Mapping[str, Rows], shape: Shape) -> dict[str, Column]:
    """The rows of every name, checked and in one form.

    Raises:
        InvalidOption: there are none, or rows that do not have the shape.
    """
    if not given:
        raise InvalidOption("held-out rows", why="there are none", mend="Give at least one party's.")
    return {name: _column(name, rows, shape) for name, rows in given.items()}


def thinned(columns: Mapping[str, Column], most: int) -> tuple[Array, NDArray[Any]]:
    """About ``most`` rows of all columns at even distances, so that a large table is not copied: x and y."""
    stride = max(1, -(-sum(len(column.x) for column in columns.values()) // most))
    kept = [(column.x[::stride], column.y[::stride]) for column in columns.values()]
    return np.concatenate([x for x, _ in kept]), np.concatenate([y for _, y in kept])


def _column(name: str, rows: Rows, shape: Shape) -> Column:
    held = rows if isinstance(rows, HeldOutRows) else HeldOutRows(*rows)
    x = np.asarray(_in_order(name, held.x, shape.features), dtype=np.float64)
    if x.ndim != 2 or x.shape[1] != shape.n_features or not len(x):
        raise _refused(name, f"x has shape {list(x.shape)}, and the models have {shape.n_features} features")
    if not np.isfinite(x).all():
        raise _refused(name, "a value of x is not finite")
    found = Column(x, _response(name, held.y, shape), _optional(held.groups), _optional(held.labels))
    for what, array in (("y", found.y), ("groups", found.groups), ("labels", found.labels)):
        if array is not None and len(array) != len(x):
            raise _refused(name, f"x has {len(x)} rows and {what} {len(array)}")
    return found


def _in_order(name: str, x: Any, features: tuple[str, ...] | None) -> Any:
    """A data frame's columns in the order of the coefficients; anything else as it is."""
    if features is None or not hasattr(x, "columns"):
        return x
    if missing := [feature for feature in features if feature not in x.columns]:
        raise _refused(name, f"column '{missing[0]}' is missing")
    return x[list(features)]


def _optional(values: ArrayLike | None) -> NDArray[Any] | None:
    return None if values is None else np.asarray(values)


def _response(name: str, y: ArrayLike, shape: Shape) -> Response:
    if shape.family == "multinomial":
        return _codes(name, np.asarray(y), shape)
    numbers = np.asarray(y, dtype=np.float64)
    numbers = numbers[:, None] if numbers.ndim == 1 else numbers
    if numbers.ndim != 2 or numbers.shape[1] != shape.n_outputs:
        raise _refused(name, f"y has shape {list(numbers.shape)}, and the models have {shape.n_outputs} outputs")
    if not np.isfinite(numbers).all():
        raise _refused(name, "a value of y is not finite")
    if shape.family == "poisson" and ((numbers < 0) | (numbers != np.floor(numbers))).any():
        raise _refused(name, "a value of y is no count")
    return numbers


def _codes(name: str, y: NDArray[Any], shape: Shape) -> Response:
    if y.ndim != 1:
        raise _refused(name, f"y has shape {list(y.shape)}, and classes are one a row")
    if shape.classes is not None:
        known = {label: code for code, label in enumerate(shape.classes)}
        if strangers := sorted({str(label) for label in y.tolist()} - set(known)):
            raise _refused(name, f"the models know no class {strangers[0]!r}, but {', '.join(shape.classes)}")
        return np.array([known[str(label)] for label in y.tolist()], dtype=np.int64)
    if y.dtype.kind not in "iu" or not ((y >= 0) & (y < shape.n_outputs)).all():
        raise _refused(name, f"y must be classes as codes from 0 to {shape.n_outputs - 1}: no model knows their names")
    return np.asarray(y, dtype=np.int64)


def _refused(name: str, why: str) -> InvalidOption:
    return InvalidOption(f"held-out rows of '{name}'", why=why, mend="Give rows of the table that the models are for.")
