"""Which numbers the regression statistics of two networks are: grids, pairs and blocks, from a few integers.

A point's activation is a grid of cells with C channels each: a map [C, h, w], tokens on a square grid, a vector on the
grid of one cell. To relate point i of network A with point j of network B, both are pooled (adaptive average) to their
*common grid*, in each direction the smaller of the two sizes. On that grid each image is a matrix with a row for each
cell, and with x of A and y of B, a cell weighing 1 / cells, the statistics of a fold of images are

    count n     sums s_i, s_j     Grams G_i = sum x x', G_j = sum y y'     cross-Gram X_ij = sum x y'

Pairs that share a common grid g share its Grams. The points of A that are on g by themselves (*near*) meet all of B
there, those pooled to it (*far*) only B's near points; far with far has a finer common grid and is sent there. Hence
two rectangular blocks a grid, each pair's cross-Gram once. Two grids of which neither covers the other make no pair.

    pair.{fold}.count                     [1]
    pair.{fold}.g{g}.sum_a, .sum_b        [all channels of A, of B on g]
    pair.{fold}.g{g}.gram_a.{i}           [C_i, C_i]      likewise gram_b.{j}
    pair.{fold}.g{g}.cross_near           [channels of A near, of B near and far]
    pair.{fold}.g{g}.cross_far            [channels of A far, of B near]

>>> early = PairPoint(name="layer1", channels=8, height=4, width=4)
>>> late = PairPoint(name="fc", channels=5, height=1, width=1)
>>> layout = PairLayout((early, late), (late,))
>>> [(grid.height, grid.a_near, grid.a_far, grid.b_near) for grid in layout.grids]
[(1, (1,), (0,), (0,))]
>>> {name: need.shape for name, need in layout.required(("train",)).items() if "cross" in name}
{'pair.train.g0.cross_near': (5, 5), 'pair.train.g0.cross_far': (8, 5)}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, NamedTuple, TypeAlias

from pydantic import Field

from quiltwork.contribution.kinds import Requirement
from quiltwork.contribution.network_graph import PointName, PointRecord
from quiltwork.privacy.events import Record

Fold: TypeAlias = Literal["train", "held_out"]
FOLDS: tuple[Fold, ...] = ("train", "held_out")

MOST_CHANNELS = 2**16
"""Channels of all points of one network together."""

MOST_NUMBERS = 2**28
"""Numbers in a whole contribution: two gigabytes, which a composer reads into memory."""


class PairPoint(Record):
    """A place in a network that takes part.

    Attributes:
        name: of the submodule.
        channels: numbers a cell.
        height: of its own grid of cells; 1 for a vector. A class token is no cell.
        width: likewise.
    """

    name: PointName
    channels: Annotated[int, Field(ge=1, le=MOST_CHANNELS)]
    height: Annotated[int, Field(ge=1, le=4096)]
    width: Annotated[int, Field(ge=1, le=4096)]

    @classmethod
    def of(cls, point: PointRecord) -> PairPoint:
        """A network's point as one that takes part."""
        height, width = point.grid
        return cls(name=point.name, channels=point.channels, height=height, width=width)

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width


class Grid(NamedTuple):
    """One common grid, and the points on it by their number: near ones are on it by themselves, far ones pooled."""

    height: int
    width: int
    a_near: tuple[int, ...]
    a_far: tuple[int, ...]
    b_near: tuple[int, ...]
    b_far: tuple[int, ...]

    @property
    def a(self) -> tuple[int, ...]:
        """All points of A, in the order of ``sum_a``."""
        return self.a_near + self.a_far

    @property
    def b(self) -> tuple[int, ...]:
        """All points of B, in the order of ``sum_b``."""
        return self.b_near + self.b_far


@dataclass(frozen=True)
class PairLayout:
    """The points of two networks, by depth, and all that follows for the tensors of their statistics.

    Attributes:
        a: points of network A.
        b: points of network B.

    Raises:
        ValueError: a point is named twice, there is none, or the whole is beyond any use.
    """

    a: tuple[PairPoint, ...]
    b: tuple[PairPoint, ...]

    def __post_init__(self) -> None:
        for side in (self.a, self.b):
            if not side or len({point.name for point in side}) < len(side):
                raise ValueError("each network takes part with at least one point, each named once")
            if sum(point.channels for point in side) > MOST_CHANNELS:
                raise ValueError(f"the points of a network have more than {MOST_CHANNELS} channels together")
        if not self.grids:
            raise ValueError("no point of one network has a grid in common with one of the other")
        if self.numbers(FOLDS) > MOST_NUMBERS:
            raise ValueError(f"the statistics hold more than {MOST_NUMBERS} numbers")

    @cached_property
    def grids(self) -> tuple[Grid, ...]:
        """Common grids, the finest first."""
        sizes = {point.grid for point in self.a + self.b}
        found = (self._grid(size) for size in sorted(sizes, key=lambda s: (-s[0] * s[1], s)))
        return tuple(grid for grid in found if grid is not None)

    def _grid(self, size: tuple[int, int]) -> Grid | None:
        a_near, a_far = _around(self.a, size)
        b_near, b_far = _around(self.b, size)
        # who meets nobody here takes no part
        a_far, b_far = (a_far if b_near else ()), (b_far if a_near else ())
        if not (a_near and (b_near or b_far)) and not (a_far and b_near):
            return None
        return Grid(*size, a_near, a_far, b_near, b_far)

    @cached_property
    def pairs(self) -> Mapping[tuple[int, int], int]:
        """(point of A, point of B) -> number of their common grid, by depth in A and then in B."""
        found = {
            (i, j): g
            for g, grid in enumerate(self.grids)
            for i in grid.a
            for j in (grid.b if i in grid.a_near else grid.b_near)
        }
        return dict(sorted(found.items()))

    def required(self, folds: Sequence[Fold] = FOLDS) -> dict[str, Requirement]:
        """Every tensor by name, with its shape; float64, Grams and sums of any sign."""
        shapes: dict[str, tuple[int, ...]] = {}
        for fold in folds:
            shapes[f"pair.{fold}.count"] = (1,)
            for g, grid in enumerate(self.grids):
                shapes |= {f"pair.{fold}.g{g}.{name}": shape for name, shape in self._shapes(grid).items()}
        return {name: Requirement(shape, ("F64",)) for name, shape in shapes.items()}

    def _shapes(self, grid: Grid) -> dict[str, tuple[int, ...]]:
        a, b = _channels(self.a, grid.a), _channels(self.b, grid.b)
        shapes: dict[str, tuple[int, ...]] = {"sum_a": (a,), "sum_b": (b,)}
        shapes |= {f"gram_a.{i}": (self.a[i].channels,) * 2 for i in grid.a}
        shapes |= {f"gram_b.{j}": (self.b[j].channels,) * 2 for j in grid.b}
        if grid.a_near:
            shapes["cross_near"] = (_channels(self.a, grid.a_near), b)
        if grid.a_far:
            shapes["cross_far"] = (_channels(self.a, grid.a_far), _channels(self.b, grid.b_near))
        return shapes

    def numbers(self, folds: Sequence[Fold] = FOLDS) -> int:
        """How many float64 numbers leave: the memory of the sums, and with 8 bytes each the payload's data."""
        return sum(math.prod(need.shape) for need in self.required(folds).values())


def _around(points: Sequence[PairPoint], size: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Numbers of the points on a grid by themselves, and of those that can be pooled to it."""
    near = tuple(k for k, point in enumerate(points) if point.grid == size)
    far = tuple(k for k, p in enumerate(points) if p.grid != size and p.height >= size[0] and p.width >= size[1])
    return near, far


def _channels(points: Sequence[PairPoint], numbers: Sequence[int]) -> int:
    return sum(points[k].channels for k in numbers)
