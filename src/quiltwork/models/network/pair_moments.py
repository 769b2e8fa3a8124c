"""Sums over pairs of points as their owners give them, added up, and seen as the moments that a regression needs.

    statistics of several owners  ->  their sum  ->  a view: one source, one grid, all its targets side by side

Adding is all there is to merging: the sums of two owners are those of their rows together, to the last few bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quiltwork.contribution.pair_layout import FOLDS, Fold, PairLayout
from quiltwork.errors import InvalidOption, TensorMismatch

Array = NDArray[np.float64]
Side: TypeAlias = Literal["a", "b"]

LARGEST = 1e60
"""Means of products beyond this overflow in the squares of their covariances."""


@dataclass(frozen=True, eq=False)
class PairStatistics:
    """Sums over the images of one owner or several.

    Attributes:
        layout: of points, grids and pairs.
        tensors: float64 arrays by the names of `PairLayout.required`, of fold ``train`` or of both folds.

    Raises:
        TensorMismatch: a tensor is missing, too many or of another shape.
        InvalidOption: one holds a value that is not finite, or there are no rows.
    """

    layout: PairLayout
    tensors: Mapping[str, Array]

    def __post_init__(self) -> None:
        held = {name: np.asarray(array, dtype=np.float64) for name, array in self.tensors.items()}
        required = {name: need.shape for name, need in self.layout.required(self.folds).items()}
        for name in sorted(required.keys() | held.keys()):
            shape, due = held[name].shape if name in held else None, required.get(name)
            if shape != due:
                raise TensorMismatch(
                    f"statistic '{name[:200]}'",
                    why=f"its shape is {shape}, and the points make it {due}",
                    mend="Compute the statistics again for these points.",
                )
            if not np.isfinite(held[name]).all():
                raise InvalidOption(
                    f"statistic '{name}'",
                    why="it holds a value that is not finite",
                    mend="An activation overflowed at that point; leave the point out.",
                )
        for fold in self.folds:
            if not held[f"pair.{fold}.count"][0] > 0:
                raise InvalidOption(
                    f"statistic 'pair.{fold}.count'",
                    why="there are no rows behind these sums, or noise has drowned them",
                    mend="Merge the statistics of more owners, or ask for less noise.",
                )
        for name, array in held.items():
            _require_of_rows(name, array, held[name.split(".g")[0].removesuffix(".count") + ".count"])
        object.__setattr__(self, "tensors", held)

    @property
    def folds(self) -> tuple[Fold, ...]:
        """``train``, and ``held_out`` where rows were held out."""
        return FOLDS if "pair.held_out.count" in self.tensors else FOLDS[:1]

    def count(self, fold: Fold = "train") -> float:
        """Images of a fold; under noise, about."""
        return float(self.tensors[f"pair.{fold}.count"][0])

    def plus(self, other: PairStatistics) -> PairStatistics:
        """The statistics of all rows together.

        Raises:
            TensorMismatch: other points, or rows were held out in one of them only.
        """
        if self.layout != other.layout or self.folds != other.folds:
            raise TensorMismatch(
                "statistics of a pair of networks",
                why="one is of other points than the other, or only one has held-out rows",
                mend="Ask all owners for the same points and the same share of held-out rows.",
            )
        return PairStatistics(self.layout, {name: self.tensors[name] + other.tensors[name] for name in self.tensors})

    def place(self, side: Side, name: str) -> int:
        """The number of a point.

        Raises:
            InvalidOption: these statistics are not of it.
        """
        names = [point.name for point in (self.layout.a if side == "a" else self.layout.b)]
        if name not in names:
            raise InvalidOption(
                f"point {name[:200]!r}",
                why=f"the statistics hold no such point of network {side.upper()}",
                mend=f"Choose among {', '.join(names[:50])}.",
            )
        return names.index(name)


def _require_of_rows(name: str, array: Array, count: Array) -> None:
    """Refuse means so large that products of them would overflow."""
    if float(np.abs(array).max(initial=0.0)) / LARGEST > float(count[0]):
        raise InvalidOption(
            f"statistic '{name}'",
            why=f"a mean of it is beyond {LARGEST:g}, which no activation comes near",
            mend="Leave these statistics out, or ask their owner for others.",
        )


def merge(statistics: Sequence[PairStatistics]) -> PairStatistics:
    """The sum of all, in the order given.

    Raises:
        InvalidOption: there are none.
        TensorMismatch: they are not of the same points.
    """
    if not statistics:
        raise InvalidOption("statistics", why="there are none to merge", mend="Give those of one owner at least.")
    return reduce(PairStatistics.plus, statistics)


class Moments(NamedTuple):
    """Means and centred moments of one source and several targets side by side, population form.

    Attributes:
        mean: of the source, ``[C]``.
        covariance: ``[C, C]``.
        cross: of the source with the targets, ``[C, T]``.
        target_mean: ``[T]``.
        variances: of the targets' channels, ``[T]``.
    """

    mean: Array
    covariance: Array
    cross: Array
    target_mean: Array
    variances: Array


@dataclass(frozen=True)
class View:
    """One source on one grid with all targets it meets there.

    Attributes:
        statistics: the sums.
        side: of the source.
        grid: number of the grid.
        source: number of the point.
    """

    statistics: PairStatistics
    side: Side
    grid: int
    source: int

    @property
    def targets(self) -> tuple[int, ...]:
        """Numbers of the target points, in the order of their columns."""
        grid = self.statistics.layout.grids[self.grid]
        if self.side == "a":
            return grid.b if self.source in grid.a_near else grid.b_near
        return grid.a if self.source in grid.b_near else grid.a_near

    @property
    def starts(self) -> list[int]:
        """The first column of each target, and the end."""
        points = self.statistics.layout.b if self.side == "a" else self.statistics.layout.a
        return [0, *np.cumsum([points[k].channels for k in self.targets]).tolist()]

    def moments(self, fold: Fold) -> Moments:
        """Centred moments of one fold."""
        held, other = self.statistics.tensors, "b" if self.side == "a" else "a"
        prefix, count = f"pair.{fold}.g{self.grid}", self.statistics.count(fold)
        mean = held[f"{prefix}.sum_{self.side}"][self._columns()] / count
        target_mean = held[f"{prefix}.sum_{other}"][: self.starts[-1]] / count
        squares = np.concatenate([held[f"{prefix}.gram_{other}.{k}"].diagonal() for k in self.targets]) / count
        gram = held[f"{prefix}.gram_{self.side}.{self.source}"] / count
        return Moments(
            mean,
            (gram + gram.T) / 2 - np.outer(mean, mean),
            self._cross(prefix) / count - np.outer(mean, target_mean),
            target_mean,
            np.maximum(squares - target_mean**2, 0.0),
        )

    def _columns(self) -> slice:
        """Where the source lies among all points of its side on the grid."""
        grid, layout = self.statistics.layout.grids[self.grid], self.statistics.layout
        points, present = (layout.a, grid.a) if self.side == "a" else (layout.b, grid.b)
        start = sum(points[k].channels for k in present[: present.index(self.source)])
        return slice(start, start + points[self.source].channels)

    def _cross(self, prefix: str) -> Array:
        """Cross-Gram of the source with its targets, ``[C, T]``."""
        held, columns = self.statistics.tensors, self._columns()
        near, far = held.get(f"{prefix}.cross_near"), held.get(f"{prefix}.cross_far")
        split = 0 if near is None else len(near)
        if self.side == "a":
            block = near if columns.start < split else far
            start = 0 if columns.start < split else split
            assert block is not None
            return block[columns.start - start : columns.stop - start]
        blocks = [b[:, columns] for b in (near, far) if b is not None and columns.stop <= b.shape[1]]
        return np.concatenate(blocks).T
