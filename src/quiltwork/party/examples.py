"""A party's inputs for networks: images or vectors, with labels or without, in an order that never changes.

    examples.inputs(start, stop)  ->  float32 [n, *shape]
    held_out(examples, 0.2, seed)  ->  examples kept, examples held out

Values are checked once, when the examples are made: finite, and within the bounds that the units state. Labels are
codes into classes, or numbers. What cannot be used is refused by its row, counted from 1, never with the value that
stands there.

>>> examples = Examples("table in memory", np.eye(4), "0..1", np.array([0, 1, 0, 1]), ("no", "yes"))
>>> len(examples), examples.shape, examples.outputs
(4, (4,), 2)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, NoReturn, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import FragmentError, InvalidOption

Inputs: TypeAlias = NDArray[np.float32]
Task: TypeAlias = Literal["classification", "regression"]
Labels: TypeAlias = NDArray[np.int64] | NDArray[np.float32]

_RANGE = re.compile(r"(-?\d+(?:\.\d+)?)\.\.(-?\d+(?:\.\d+)?)")
_BLOCK = 4096


class Batch(NamedTuple):
    """Some rows: inputs float32 ``[n, *shape]``, labels int64 ``[n]`` or float32 ``[n, q]`` or None."""

    inputs: Inputs
    labels: Labels | None


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs of one party in a fixed order.

    Attributes:
        place: how an error names them.
        values: ``[n, *shape]`` of any numeric type; `inputs` gives them as float32.
        units: of the values, as text; ``"0..1"`` and the like bound them.
        labels: codes int64 ``[n]`` into ``classes``, numbers float32 ``[n, q]``, or None where there are none.
        classes: labels in the order of their codes; None where labels are numbers or missing.

    Raises:
        FragmentError: there are no rows, a value is not finite or outside the units, or labels do not fit.
    """

    place: str
    values: NDArray[Any]
    units: str
    labels: Labels | None = None
    classes: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if not len(self.values):
            raise FragmentError(self.place, why="it holds no rows", mend="Give at least one labelled input.")
        if self.labels is not None and len(self.labels) != len(self.values):
            why = f"it has {len(self.labels)} labels for {len(self.values)} inputs"
            raise FragmentError(self.place, why=why, mend="Give one label for each input.")
        if self.labels is not None and not np.isfinite(self.labels).all():
            refuse_row(self.place, ~np.isfinite(self.labels.reshape(len(self.labels), -1)), 0, "its label is missing")
        self._check_values()

    def _check_values(self) -> None:
        least, most = bounds_of(self.units)
        for start in range(0, len(self), _BLOCK):
            block = self.inputs(start, start + _BLOCK).reshape(-1, math.prod(self.shape))
            if not np.isfinite(block).all():
                refuse_row(self.place, ~np.isfinite(block), start, "it holds a NaN or an infinity")
            if block.min() < least or block.max() > most:
                why = f"it holds a value outside the declared units {self.units}"
                refuse_row(self.place, (block < least) | (block > most), start, why)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input."""
        return tuple(int(size) for size in self.values.shape[1:])

    @property
    def outputs(self) -> int | None:
        """Classes, or numbers in a label; None without labels."""
        if self.labels is None:
            return None
        return len(self.classes) if self.classes is not None else int(self.labels.shape[1])

    def inputs(self, start: int, stop: int) -> Inputs:
        """Rows ``start`` to ``stop`` as float32 ``[n, *shape]``."""
        return np.ascontiguousarray(self.values[start:stop], dtype=np.float32)

    def batches(self, size: int = 256) -> Iterator[Batch]:
        """All rows in their order."""
        for start in range(0, len(self), size):
            labels = None if self.labels is None else self.labels[start : start + size]
            yield Batch(self.inputs(start, start + size), labels)

    def take(self, rows: NDArray[np.intp]) -> Examples:
        """Some of the rows, in the order named."""
        labels = None if self.labels is None else self.labels[rows]
        return replace(self, values=self.values[rows], labels=labels)

    def require_labels(self) -> Labels:
        """The labels.

        Raises:
            FragmentError: there are none.
        """
        if self.labels is None:
            raise FragmentError(
                self.place,
                why="its inputs have no labels",
                mend="Give inputs with labels; of a table, name their column.",
            )
        return self.labels


def held_out(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """The rows kept and the rows held out, each in their old order; equal seeds hold out equal rows.

    Raises:
        InvalidOption: the share lies outside (0, 1), or one side would be empty.
    """
    count = round(share * len(examples)) if 0 < share < 1 else 0
    if not 0 < count < len(examples):
        raise InvalidOption(
            f"held-out share {share}",
            why=f"of {len(examples)} rows it leaves one side empty",
            mend="Give a share between 0 and 1 that leaves rows on both sides.",
        )
    order = np.random.default_rng(seed).permutation(len(examples))
    return examples.take(np.sort(order[count:])), examples.take(np.sort(order[:count]))


def bounds_of(units: str) -> tuple[float, float]:
    """The interval that units such as ``"0..1"`` state; the whole line for any other text.

    >>> bounds_of("-1..1"), bounds_of("Hounsfield")
    ((-1.0, 1.0), (-inf, inf))
    """
    match = _RANGE.fullmatch(units)
    if match is None:
        return -math.inf, math.inf
    least, most = float(match[1]), float(match[2])
    if not least < most:
        raise InvalidOption(f"units '{units}'", why="the interval is empty", mend="State units such as 0..255.")
    return least, most


def codes_of(words: Sequence[str], classes: tuple[str, ...] | None, place: str) -> tuple[NDArray[np.int64], Any]:
    """Codes int64 ``[n]`` of labels, and the classes: those declared, or those found in their order.

    Raises:
        FragmentError: a label is none of the classes, or there is only one class.
    """
    known = tuple(sorted(set(words), key=_order)) if classes is None else classes
    require_classes(known, place)
    place_of = {word: code for code, word in enumerate(known)}
    codes = np.array([place_of.get(word, -1) for word in words], dtype=np.int64)
    if (codes < 0).any():
        refuse_row(place, codes[:, None] < 0, 0, "its label is none of the classes that were declared")
    return codes, known


def require_classes(classes: tuple[str, ...], place: str) -> None:
    """Refuse classes that are fewer than two, or named twice.

    Raises:
        FragmentError: they are.
    """
    if len(classes) < 2 or len(set(classes)) < len(classes):
        why = "its classes are fewer than two, or one is named twice"
        raise FragmentError(place, why=why, mend="Declare all classes that any party has.")


def _order(word: str) -> tuple[int, int, str]:
    """Whole numbers by value before text by its characters."""
    return (0, int(word), word) if re.fullmatch(r"-?\d{1,18}", word) else (1, 0, word)


def refuse_row(place: str, bad: NDArray[np.bool_], start: int, why: str) -> NoReturn:
    """Refuse the first row of a block that begins at row ``start`` and has a bad value.

    Raises:
        FragmentError: always.
    """
    row = start + int(np.argmax(bad.any(axis=1))) + 1
    raise FragmentError(f"{place} row {row}", why=why, mend="Correct or leave out such rows, or declare other units.")
