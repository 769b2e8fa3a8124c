"""Principal components of public rows as a network, so that all owners can summarise their inputs in them.

    x - m = sum_i s_i u_i v_i'      of the rows, flattened        e(x) = ((x - m) . v_1, ..., (x - m) . v_d)

Random projections keep what any inputs hold; these keep most of what inputs like the given rows hold, in fewer numbers.
The directions are functions of the rows, each of them nearly a row where there are few, so the rows are to be public.
They travel as the weights of one linear layer, which every owner runs and nobody needs the rows for.

>>> mean, directions = principal_directions(np.array([[0.0, 0.0], [3.0, 4.0], [6.0, 8.0]]), 1)
>>> (mean + 0.0).tolist(), directions.round(12).tolist()
([3.0, 4.0], [[0.6], [0.8]])
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from quiltwork.errors import InvalidOption
from quiltwork.evidence.embedding import MOST_DIMENSIONS, MOST_ENTRIES
from quiltwork.evidence.gaussian import finite_table

Array = NDArray[np.float64]

POINT = "basis"
"""Where the components are read."""


def principal_directions(rows: ArrayLike, dimension: int) -> tuple[Array, Array]:
    """Mean ``[D]`` and the first principal directions ``[D, d]``, the strongest first, float64.

    Args:
        rows: ``[n, D]``, finite.
        dimension: d. A direction's largest entry is positive, which settles the sign.

    Raises:
        InvalidOption: the rows are no finite table, do not vary in so many directions, or d is out of its domain.
    """
    table = finite_table(rows)
    if not 1 <= dimension <= MOST_DIMENSIONS or dimension * table.shape[1] > MOST_ENTRIES:
        raise InvalidOption(
            f"{dimension} principal components of {table.shape[1]} numbers",
            why=f"there are 1 to {MOST_DIMENSIONS} of them, with {MOST_ENTRIES} entries at most",
            mend="Choose fewer.",
        )
    mean = table.mean(axis=0)
    _, strengths, right = np.linalg.svd(table - mean, full_matrices=False)
    rank = int((strengths > max(table.shape) * np.finfo(float).eps * max(strengths[0], 1e-300)).sum())
    if dimension > rank:
        raise InvalidOption(
            f"{dimension} principal components",
            why=f"the {len(table)} rows vary in {rank} directions only",
            mend=f"Choose {rank} or fewer, or give more rows." if rank else "Give rows that differ.",
        )
    directions = right[:dimension].T
    largest = np.abs(directions).argmax(axis=0)
    return mean, directions * np.sign(directions[largest, np.arange(dimension)])


class Principal(nn.Module):
    """Raw ``[n, *shape]`` to components ``[n, d]``; its one layer is called ``basis``.

    Args:
        mean: ``[D]``.
        directions: ``[D, d]``.
    """

    def __init__(self, mean: Array, directions: Array) -> None:
        super().__init__()
        self.basis = nn.Linear(*directions.shape)
        with torch.no_grad():
            self.basis.weight.copy_(torch.from_numpy(directions.T))
            self.basis.bias.copy_(torch.from_numpy(-mean @ directions))

    @classmethod
    def of(cls, rows: ArrayLike, dimension: int) -> Principal:
        """From public rows ``[n, *shape]``; raises as `principal_directions`."""
        table = np.asarray(rows, dtype=np.float64)
        return cls(*principal_directions(table.reshape(len(table), math.prod(table.shape[1:])), dimension)).eval()

    def forward(self, x: Tensor) -> Tensor:
        """Components of raw inputs."""
        components: Tensor = self.basis(x.flatten(1))
        return components
