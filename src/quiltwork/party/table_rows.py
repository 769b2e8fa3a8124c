"""Rows of a table as arrays: one block of them, or all gathered into one matrix.

Gathering holds the covariates once. Beyond a budget of bytes they go to a temporary file without a name, which is
mapped into memory: it is gone when the arrays are, however the process ends.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from quiltwork.errors import FragmentError
from quiltwork.files import storage_error
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Response

MAX_CLASSES = 64
"""Classes that a fit tells apart at most: its Newton steps hold an array of their number to the fourth power."""

_GROWTH = 1 << 24
"""Bytes by which a pile in memory grows."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Checked rows: finite, complete, in the domain of their task.

    Attributes:
        x: float ``[n, d]``.
        y: float64 ``[n, q]``, or int64 ``[n]`` codes into ``classes``.
        weights: float64 ``[n]``, zero or more; None where all rows count alike.
        classes: labels in the order of their codes; None without classification.
        dropped: rows that were left out because a value was missing.
    """

    x: NDArray[Any]
    y: Response
    weights: Array | None = None
    classes: tuple[str, ...] | None = None
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.x)

    def require_usable(self, place: str, target: tuple[str, ...]) -> None:
        """Refuse rows from which nothing can be learned.

        Raises:
            FragmentError: there are none, all weigh nothing, a response is the same in all of them, or it has more
                than `MAX_CLASSES` classes.
        """
        if len(self) == 0:
            why = f"all of its {self.dropped} rows have missing values" if self.dropped else "it holds no rows"
            raise FragmentError(place, why=why, mend="Give a table with complete rows.")
        if self.weights is not None and not self.weights.any():
            raise FragmentError(place, why="all row weights are zero", mend="Give some row a positive weight.")
        if self.classes is not None and len(self.classes) > MAX_CLASSES and target:
            raise FragmentError(
                f"{place} column '{target[0]}'",
                why=f"it has {len(self.classes):,} classes, and a mixture tells at most {MAX_CLASSES} apart",
                mend="Ask for regression or counts if it holds numbers, or put rare classes together.",
            )
        counted = self.y if self.weights is None else self.y[self.weights > 0]
        for j, name in enumerate(target):
            column = counted if self.classes is not None else counted[:, j]
            if (column == column[0]).all():
                what = "all rows have one class" if self.classes is not None else "it is the same in every row"
                raise FragmentError(f"{place} column '{name}'", why=what, mend="Choose a target that varies.")


def gathered(
    blocks: Iterable[Rows],
    width: int,
    *,
    memory: int,
    dtype: type[np.floating],
    view: NDArray[np.floating] | None = None,
) -> Rows | None:
    """All blocks as one.

    Args:
        blocks: in order.
        width: d, for a table without rows.
        memory: bytes of covariates that may stay in memory.
        dtype: of the covariates.
        view: the covariates of all rows, if they need no gathering.

    Returns:
        The rows; None where ``view`` was given and rows were left out, so that it does not fit.

    Raises:
        StorageError: the temporary file does not fit on its disk.
    """
    pile = Pile(width, memory, dtype)
    ys: list[Response] = []
    weights: list[Array] = []
    classes, dropped = None, 0
    for block in blocks:
        if view is None:
            pile.add(block.x)
        elif block.dropped:
            return None
        # copies: a view would keep the whole block, covariates and all
        ys.append(block.y.copy())
        if block.weights is not None:
            weights.append(block.weights.copy())
        classes, dropped = block.classes, dropped + block.dropped
    x = pile.whole() if view is None else view
    y = np.concatenate(ys) if ys else np.empty((0, 0))
    return Rows(x, y, np.concatenate(weights) if weights else None, classes, dropped)


class Pile:
    """Blocks of rows that become one matrix, in memory or in a temporary file.

    In memory they fill one array that grows a little at a time: the allocator moves its pages and copies nothing, so
    that no row is ever held twice.
    """

    def __init__(self, width: int, memory: int, dtype: type[np.floating]) -> None:
        self._width, self._memory, self._dtype = width, memory, np.dtype(dtype)
        self._flat = np.empty(0, dtype=dtype)
        self._used = self._spilled = 0
        self._file: IO[bytes] | None = None

    def add(self, block: NDArray[np.floating]) -> None:
        """Append a copy of the rows of ``block``."""
        end = self._used + block.size
        if end > self._flat.size:
            self._flat.resize(max(end, self._used + _GROWTH // self._dtype.itemsize), refcheck=False)
        self._flat[self._used : end] = block.ravel()
        self._used = end
        if (self._spilled + self._used) * self._dtype.itemsize > self._memory:
            self._spill()

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the map
            self._file.write(self._flat[: self._used].data)
            self._file.flush()
        except OSError as error:
            raise storage_error(Path(tempfile.gettempdir()), error) from error
        self._spilled, self._used = self._spilled + self._used, 0

    def whole(self) -> NDArray[np.floating]:
        """The matrix; the pile must not be used afterwards."""
        if self._file is not None:
            shape = (self._spilled // self._width, self._width)
            return np.memmap(self._file, dtype=self._dtype, mode="r", shape=shape)
        self._flat.resize(self._used, refcheck=False)
        return self._flat.reshape(-1, self._width)
