"""Adapters: a linear map from one point's activation to another's, across channels, grids and forms.

    cells(source) [n, C_s, h_s, w_s]  ->  W s + b in every cell  ->  R_h . R_w'  ->  target's form [n, *target.shape]

Every form is a grid of cells (`cells`): a vector has one, tokens lie in a square. A side that shrinks is averaged over
its cells, a side that grows is interpolated linearly; both are a matrix R whose rows sum to one, so that they commute
with the map of channels, and a vector that goes into a map is the same in every cell, a map that goes into a vector its
mean. Tokens before those of the image (a class token) go to such tokens by the same map, and where the source has none,
from the mean of its cells.

With W = 1 and b = 0, the adapter from a point to itself gives what it takes, exactly.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from quiltwork.contribution.network_graph import PointRecord
from quiltwork.errors import InvalidOption, TensorMismatch
from quiltwork.models.network.cells import cells

MOST_SIDE = 4096
"""Cells in a line of a grid that is resampled: its matrix has at most 2^24 numbers."""


def resampling(taken: int, given: int) -> Tensor:
    """The matrix float64 ``[given, taken]`` that brings ``taken`` cells of a line to ``given``.

    >>> resampling(4, 2)
    tensor([[0.5000, 0.5000, 0.0000, 0.0000],
            [0.0000, 0.0000, 0.5000, 0.5000]], dtype=torch.float64)
    >>> resampling(2, 3)[1]
    tensor([0.5000, 0.5000], dtype=torch.float64)

    Raises:
        InvalidOption: a line is longer than `MOST_SIDE`.
    """
    if max(taken, given) > MOST_SIDE:
        raise InvalidOption(
            f"an adapter from {taken} cells in a line to {given}",
            why=f"lines of at most {MOST_SIDE} are resampled",
            mend="Join the networks at points with coarser grids.",
        )
    rows = torch.zeros(given, taken, dtype=torch.float64)
    for i in range(given):
        if given <= taken:
            start, stop = i * taken // given, -((i + 1) * taken // -given)
            rows[i, start:stop] = 1 / (stop - start)
        else:
            place = min(max((i + 0.5) * taken / given - 0.5, 0.0), taken - 1.0)
            left = min(int(place), taken - 1)
            rows[i, left] += 1 - (place - left)
            rows[i, min(left + 1, taken - 1)] += place - left
    return rows


class Adapter(nn.Module):
    """``W s + b`` in every cell, on the target's grid and in its form. The only part of a stitched network that trains.

    Args:
        source: where activations come from.
        target: where they go.
        weight: ``[C_t, C_s]``, kept as float32; None: the identity on the channels that both have.
        bias: ``[C_t]``; None: zero.

    Raises:
        TensorMismatch: weight or bias of another shape, or not finite.
        InvalidOption: grids too long to be resampled.
    """

    down: Tensor | None
    across: Tensor | None

    def __init__(
        self, source: PointRecord, target: PointRecord, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> None:
        super().__init__()
        self.source, self.target = source, target
        wide = (target.channels, source.channels)
        self.weight = nn.Parameter(_fitting("weight", torch.eye(*wide) if weight is None else weight, wide))
        self.bias = nn.Parameter(_fitting("bias", torch.zeros(wide[0]) if bias is None else bias, wide[:1]))
        for name, taken, given in zip(("down", "across"), source.grid, target.grid, strict=True):
            matrix = None if taken == given else resampling(taken, given).float()
            self.register_buffer(name, matrix, persistent=False)

    @classmethod
    def linear(
        cls, source: PointRecord, target: PointRecord, weight: Tensor | None = None, bias: Tensor | None = None
    ) -> Self:
        """An adapter; the identity where nothing is given."""
        return cls(source, target, weight, bias)

    @property
    def multiply_adds(self) -> int:
        """Of one input: the map of channels in the fewer cells, and the resampling."""
        (h, w), (h_t, w_t) = self.source.grid, self.target.grid
        first = self._maps_first
        channels = self.target.channels if first else self.source.channels
        resampled = (h_t * h * w if self.down is not None else 0) + (h_t * w * w_t if self.across is not None else 0)
        places = (h * w if first else h_t * w_t) + self.target.leading
        return channels * resampled + places * self.weight.numel()

    def forward(self, value: Tensor) -> Tensor:
        """``[n, *source.shape]`` to ``[n, *target.shape]``."""
        found = cells(self.source, value)
        found = self._resampled(self._mapped(found)) if self._maps_first else self._mapped(self._resampled(found))
        target = self.target
        if target.form == "map":
            return found
        if target.form == "grid":
            return found.permute(0, 2, 3, 1)
        if target.form == "vector":
            return found.flatten(1)
        tokens = found.flatten(2).transpose(1, 2)
        return torch.cat([self._leading(value), tokens], dim=1) if target.leading else tokens

    @property
    def _maps_first(self) -> bool:
        (h, w), (h_t, w_t) = self.source.grid, self.target.grid
        return h * w <= h_t * w_t

    def _mapped(self, found: Tensor) -> Tensor:
        return nn.functional.conv2d(found, self.weight[:, :, None, None], self.bias)

    def _resampled(self, found: Tensor) -> Tensor:
        if self.down is not None:
            found = torch.matmul(self.down, found)
        return found if self.across is None else torch.matmul(found, self.across.transpose(0, 1))

    def _leading(self, value: Tensor) -> Tensor:
        """Tokens before those of the image: each from its like, the last one of the source for those beyond."""
        own = self.source.leading
        if own:
            taken = torch.cat([value[:, min(i, own - 1)].unsqueeze(1) for i in range(self.target.leading)], dim=1)
        else:
            taken = cells(self.source, value).mean(dim=(2, 3)).unsqueeze(1).expand(-1, self.target.leading, -1)
        return nn.functional.linear(taken, self.weight, self.bias)


def _fitting(name: str, found: Tensor, due: tuple[int, ...]) -> Tensor:
    kept = found.detach().to(torch.float32).clone()
    if tuple(found.shape) != due or not torch.isfinite(kept).all():
        raise TensorMismatch(
            f"{name} of an adapter, of shape {list(found.shape)}",
            why=f"finite float32 numbers of shape {list(due)} are due: the channels of target and source",
            mend="Fit the adapter between these two points.",
        )
    return kept
