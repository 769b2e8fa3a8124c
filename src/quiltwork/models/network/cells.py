"""Activations as grids of cells: what maps, tokens and vectors have in common.

    map [n, c, h, w]     itself
    grid [n, h, w, d]    channels to the front
    tokens [n, t, d]     without the leading ones (a class token is no cell), in the grid of the point
    vector [n, d]        one cell

>>> import torch
>>> point = PointRecord(name="blocks.0", node="add", form="tokens", shape=(5, 8), cut=True, leading=1)
>>> cells(point, torch.zeros(3, 5, 8)).shape, takes_part(point, largest_grid=1)
(torch.Size([3, 8, 2, 2]), PairPoint(name='blocks.0', channels=8, height=1, width=1))
"""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d

from quiltwork.contribution.network_graph import PointRecord
from quiltwork.contribution.pair_layout import PairPoint


def cells(point: PointRecord, value: Tensor) -> Tensor:
    """An activation ``[n, *point.shape]`` as ``[n, channels, height, width]``."""
    if point.form == "map":
        return value
    if point.form == "grid":
        return value.permute(0, 3, 1, 2)
    if point.form == "tokens":
        return value[:, point.leading :].transpose(1, 2).reshape(value.shape[0], point.channels, *point.grid)
    return value[:, :, None, None]


def takes_part(point: PointRecord, largest_grid: int | None = None) -> PairPoint:
    """How a point takes part in statistics: on its own grid, or on a coarser one that it is pooled to."""
    own = PairPoint.of(point)
    if largest_grid is None:
        return own
    sides = {"height": min(own.height, largest_grid), "width": min(own.width, largest_grid)}
    return own.model_copy(update=sides)


def pooled_cells(point: PointRecord, value: Tensor, part: PairPoint) -> Tensor:
    """An activation as cells ``[n, channels, height, width]`` of the grid on which the point takes part."""
    return averaged(cells(point, value), part.grid)


def averaged(found: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cells ``[n, channels, height, width]`` averaged to a grid that is no finer."""
    (height, width), (rows, columns) = found.shape[2:], grid
    if (height, width) == (rows, columns):
        return found
    if height % rows or width % columns:
        return adaptive_avg_pool2d(found, grid)
    # the same, and half as quick again
    return avg_pool2d(found, (height // rows, width // columns))
