"""Sums over images of products between points of two networks: one matrix product a grid, not one a pair.

On a grid the features of all points of A stand below each other as one matrix ``[channels, images x cells]``, those of
B likewise, and every pair's cross-Gram is a block of the product of the two (`contribution.pair_layout` says which
blocks are needed). Features are float32, their products and sums float64: a product of two float32 numbers is exact in
float64.

With ``precision="float32"`` each batch is multiplied in float32 and only the batches are added in float64. That takes a
quarter to a third off the pass, and costs digits: weights of fits come out within some 1e-5 of the largest
(benchmarks/results/stitch_statistics.md), where float64 gives all that float32 activations hold.

Memory: the sums, `PairLayout.numbers` of float64, and the features of one batch on one grid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.contribution.pair_layout import Fold, Grid, PairLayout, PairPoint
from quiltwork.models.network.cells import averaged

Precision: TypeAlias = Literal["float64", "float32"]
_DTYPES = {"float64": torch.float64, "float32": torch.float32}


class PairSums:
    """Running sums of one fold.

    Args:
        layout: of points and grids.
        precision: in which a batch is multiplied.
    """

    def __init__(self, layout: PairLayout, precision: Precision = "float64") -> None:
        self._layout = layout
        self._dtype = _DTYPES[precision]
        self.images = 0
        needed = layout.required(("train",))
        self._sums = {
            name.removeprefix("pair.train."): torch.zeros(need.shape, dtype=torch.float64)
            for name, need in needed.items()
        }

    def add(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
        """Count a batch.

        Args:
            a: for each point of A its cells ``[images, channels, height, width]``, on the point's own grid.
            b: likewise of B.
        """
        images = len(a[0])
        if not images:
            return
        self.images += images
        self._sums["count"] += images
        for g, grid in enumerate(self._layout.grids):
            rows_a, rows_b = grid_rows(self._layout, grid, a, b, self._dtype)
            cells = grid.height * grid.width
            for name, value in grid_products(self._layout, grid, rows_a, rows_b):
                self._sums[f"g{g}.{name}"].add_(value, alpha=1 / cells)

    def tensors(self, fold: Fold) -> dict[str, NDArray[np.float64]]:
        """The sums by their full names."""
        return {f"pair.{fold}.{name}": value.numpy().copy() for name, value in self._sums.items()}


def grid_rows(
    layout: PairLayout, grid: Grid, a: Sequence[Tensor], b: Sequence[Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Features of A and of B on a grid, ``[channels of all, images x cells]``; pooled in ``dtype``."""
    size = (grid.height, grid.width)
    return _stacked(layout.a, grid.a, a, size, dtype), _stacked(layout.b, grid.b, b, size, dtype)


def _stacked(
    points: Sequence[PairPoint],
    present: Sequence[int],
    cells: Sequence[Tensor],
    size: tuple[int, int],
    dtype: torch.dtype,
) -> Tensor:
    images = len(cells[0])
    whole = torch.empty((sum(points[k].channels for k in present), images, *size), dtype=dtype)
    start = 0
    for k in present:
        stop = start + points[k].channels
        found = cells[k] if points[k].grid == size else averaged(cells[k].to(dtype), size)
        whole[start:stop].copy_(found.transpose(0, 1))
        start = stop
    return whole.reshape(len(whole), -1)


def grid_products(layout: PairLayout, grid: Grid, a: Tensor, b: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Sums, Grams and cross-Grams of the columns of ``a`` and ``b``, by their names within the grid."""
    for side, points, present, rows in (("a", layout.a, grid.a, a), ("b", layout.b, grid.b, b)):
        yield f"sum_{side}", rows.sum(dim=1)
        start = 0
        for k in present:
            own = rows[start : start + points[k].channels]
            yield f"gram_{side}.{k}", own @ own.T
            start += points[k].channels
    near_a = sum(layout.a[k].channels for k in grid.a_near)
    near_b = sum(layout.b[k].channels for k in grid.b_near)
    if near_a:
        yield "cross_near", a[:near_a] @ b.T
    if grid.a_far:
        yield "cross_far", a[near_a:] @ b[:near_b].T
