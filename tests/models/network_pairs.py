"""Activations of two made-up networks on three grids, and what a direct computation over all their rows gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.contribution.pair_layout import Fold, PairLayout, PairPoint
from quiltwork.models.network.pair_moments import PairStatistics
from quiltwork.models.network.pair_sums import PairSums, Precision

Array = NDArray[np.float64]


def point(name: str, channels: int, side: int) -> PairPoint:
    return PairPoint(name=name, channels=channels, height=side, width=side)


LAYOUT = PairLayout(
    (point("a0", 3, 4), point("a1", 5, 2), point("a2", 4, 1)), (point("b0", 2, 4), point("b1", 4, 4), point("b2", 3, 1))
)


def activations(images: int, seed: int = 0, layout: PairLayout = LAYOUT) -> tuple[list[Tensor], list[Tensor]]:
    """Cells of every point, means away from zero, points of one network correlated with those of the other."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(images, 6))

    def cells(p: PairPoint) -> Tensor:
        mix = np.random.default_rng(p.channels * 7 + p.height).normal(size=(6, p.channels))
        base = (common @ mix)[:, :, None, None] + rng.normal(size=(images, p.channels, p.height, p.width)) + 1.5
        return torch.from_numpy(base.astype(np.float32))

    return [cells(p) for p in layout.a], [cells(p) for p in layout.b]


def pooled_rows(cells: Tensor, height: int, width: int) -> Array:
    """Rows ``[images x cells, channels]``, each cell the mean of the block that it covers; sides that divide."""
    x = cells.double().numpy()
    n, c, h, w = x.shape
    return x.reshape(n, c, height, h // height, width, w // width).mean((3, 5)).transpose(0, 2, 3, 1).reshape(-1, c)


def statistics(
    folds: Mapping[Fold, tuple[Sequence[Tensor], Sequence[Tensor]]],
    layout: PairLayout = LAYOUT,
    precision: Precision = "float64",
) -> PairStatistics:
    tensors: dict[str, Array] = {}
    for fold, (a, b) in folds.items():
        sums = PairSums(layout, precision)
        sums.add(a, b)
        tensors |= sums.tensors(fold)
    return PairStatistics(layout, tensors)


def direct(x: Array, y: Array, ridge: float) -> tuple[Array, Array]:
    """Ridge regression of rows on rows by an augmented least-squares problem: weight ``[T, C]`` and bias ``[T]``."""
    mean_x, mean_y = x.mean(0), y.mean(0)
    centred = x - mean_x
    strength = ridge * centred.var(0).mean() * len(x)
    tall = np.concatenate((centred, np.sqrt(strength) * np.eye(x.shape[1])))
    right = np.concatenate((y - mean_y, np.zeros((x.shape[1], y.shape[1]))))
    weight = np.linalg.lstsq(tall, right, rcond=None)[0]
    return weight.T, mean_y - mean_x @ weight
