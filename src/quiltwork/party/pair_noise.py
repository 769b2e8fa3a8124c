"""Regression statistics of two networks under Gaussian noise: one image more or less is hidden, at one price.

Let X_g be an image's features on grid g, all points of both networks side by side, a row for each cell, divided by the
root of the number of cells. With a clip C that is declared in advance, s = min(1, C / root(1 + sum_g |X_g|^2)) / C and

    u = s        U_g = s X_g        so that    u^2 + sum_g |U_g|^2 <= 1     (Frobenius norms)

the image adds u^2 to the count, u times the column means to the sums, and U_g' U_g to Grams and cross-Grams: a
regression in which it weighs (s C)^2 instead of 1. All these numbers are entries of products of (u, U_g) with itself.
Counting each distinct number once, times the root of how often it occurs (all but the count and the Grams' diagonals
twice), the L2 norm of what one image adds is at most

    u^4 + 2 u^2 sum_g |U_g|^2 + sum_g |U_g' U_g|^2  <=  (u^2 + sum_g |U_g|^2)^2  <=  1

since |M'M| <= |M|^2, and the mean of squares is at least the square of the mean. An image is in one fold, chosen by its
own bytes, so both folds together have that sensitivity: one event. Noise of sigma on numbers that occur once, sigma /
root 2 on the others; all is multiplied by C^2 afterwards, which costs nothing.

**Numbers that a computer adds.** u and U are rounded towards zero to multiples of 2^-18, which leads out of no ball;
products are multiples of 2^-36, added exactly in float64 within a batch (no entry of an image exceeds 1) and as whole
numbers among batches, up to 2^27 images, as in `quiltwork.evidence.clipped`. An image whose activations are not finite
counts as none.

All this takes an image's features to be a function of that image. The networks are strangers', and a graph can mix the
rows of a batch (a mean over them is enough), so each image goes through them alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.contribution.pair_layout import Fold, PairLayout
from quiltwork.errors import InvalidOption
from quiltwork.models.network.pair_sums import grid_products, grid_rows
from quiltwork.privacy import accountant, mechanisms
from quiltwork.privacy.events import GaussianEvent

Array = NDArray[np.float64]

SENSITIVITY = 1.0
"""L2 sensitivity of all numbers of both folds, in units of the clip squared: one image more or less."""

_GRID = 2.0**-18
_UNIT = _GRID**2
_INSIDE = 1 - 2.0**-30
MOST_IMAGES = 2**27
MOST_IN_BATCH = 2**16


@dataclass(frozen=True)
class PairNoise:
    """How statistics of a pair leave under noise.

    Attributes:
        epsilon: privacy loss in nats, for one image more or less.
        delta: slack of that bound.
        clip: C, the longest image: the root of 1 and the mean squares of all features of both networks on all common
            grids; from public images, never from the owner's.

    Raises:
        InvalidOption: a part is out of its domain.
    """

    epsilon: float
    delta: float
    clip: float

    def __post_init__(self) -> None:
        if not 0 < self.clip < math.inf:
            raise InvalidOption(
                f"clip={self.clip}", why="it bounds the length of an image's features", mend="Choose a positive number."
            )
        # runs the checks of the other two
        mechanisms.noise_grid("sigma", self.sigma)

    @property
    def sigma(self) -> float:
        """Standard deviation of the noise, in units of the clip squared."""
        return accountant.calibrate_gaussian(self.epsilon, self.delta, SENSITIVITY)

    def event(self) -> GaussianEvent:
        """The record of one release of both folds."""
        return GaussianEvent(released="pair", unit="row", sigma=self.sigma, sensitivity=SENSITIVITY)


class ClippedPairSums:
    """Running sums of one fold, of clipped images, exact.

    Args:
        layout: of points and grids.
        clip: the longest image.
    """

    def __init__(self, layout: PairLayout, clip: float) -> None:
        self._layout, self._clip = layout, clip
        self.images = 0
        self._sums = {
            name.removeprefix("pair.train."): torch.zeros(need.shape, dtype=torch.int64)
            for name, need in layout.required(("train",)).items()
        }

    def add(self, a: Sequence[Tensor], b: Sequence[Tensor]) -> None:
        """Count a batch of at most 2^16 images, given as for `PairSums.add`.

        Raises:
            InvalidOption: there are too many images for sums to be exact.
        """
        images = len(a[0])
        self.images += images
        if images > MOST_IN_BATCH or self.images > MOST_IMAGES:
            raise InvalidOption(
                f"{self.images} images",
                why=f"sums are exact up to {MOST_IMAGES}, and {MOST_IN_BATCH} in a batch",
                mend="Use fewer.",
            )
        if not images:
            return
        grids = [grid_rows(self._layout, grid, a, b, torch.float64) for grid in self._layout.grids]
        scale = self._scales(grids, images)
        whole = _rounded(scale)
        self._count("count", (whole**2).sum().reshape(1))
        for g, ((rows_a, rows_b), grid) in enumerate(zip(grids, self._layout.grids, strict=True)):
            parts = [self._clipped(rows, scale) for rows in (rows_a, rows_b)]
            for name, value in grid_products(self._layout, grid, *parts):
                if not name.startswith("sum_"):
                    self._count(f"g{g}.{name}", value)
            for side, rows in (("a", rows_a), ("b", rows_b)):
                means = torch.nan_to_num(rows.reshape(len(rows), images, -1).mean(dim=2), 0.0, 0.0, 0.0)
                self._count(f"g{g}.sum_{side}", _rounded(means * scale) @ whole)

    def _count(self, name: str, exact: Tensor) -> None:
        self._sums[name] += (exact / _UNIT).to(torch.int64)

    def _scales(self, grids: Sequence[tuple[Tensor, Tensor]], images: int) -> Tensor:
        """s of each image; 0 where anything is not finite."""
        lengths = _lengths(self._layout, grids, images)
        scale = (self._clip / lengths).clamp(max=1.0) * (_INSIDE / self._clip)
        return torch.where(lengths.isfinite(), scale, torch.zeros_like(scale))

    def _clipped(self, rows: Tensor, scale: Tensor) -> Tensor:
        wide = rows.reshape(len(rows), len(scale), -1)
        scaled = torch.nan_to_num(wide * (scale / math.sqrt(wide.shape[2]))[:, None], 0.0, 0.0, 0.0)
        return _rounded(scaled).reshape(rows.shape)

    def exact(self, fold: Fold) -> dict[str, Array]:
        """The sums without noise, in units of the clip squared; they must not leave."""
        return {f"pair.{fold}.{name}": value.numpy() * _UNIT for name, value in self._sums.items()}


def image_lengths(layout: PairLayout, a: Sequence[Tensor], b: Sequence[Tensor]) -> Array:
    """How long images are, float64 ``[images]``: on public ones, what to choose a clip by.

    Args:
        layout: of points and grids.
        a: cells of each point of A, as for `ClippedPairSums.add`.
        b: likewise of B.
    """
    grids = [grid_rows(layout, grid, a, b, torch.float64) for grid in layout.grids]
    return np.asarray(_lengths(layout, grids, len(a[0])).numpy())


def _lengths(layout: PairLayout, grids: Sequence[tuple[Tensor, Tensor]], images: int) -> Tensor:
    """The root of 1 and all mean squares of each image."""
    squares = torch.ones(images, dtype=torch.float64)
    for grid, sides in zip(layout.grids, grids, strict=True):
        for rows in sides:
            squares += (rows**2).reshape(len(rows), images, -1).sum(dim=(0, 2)) / (grid.height * grid.width)
    return squares.sqrt()


def _rounded(values: Tensor) -> Tensor:
    return torch.trunc(values / _GRID) * _GRID


def released(exact: Mapping[str, Array], noise: PairNoise, rng: np.random.Generator | None = None) -> dict[str, Array]:
    """Exact sums of both folds with noise, in the units of the features.

    Args:
        exact: from `ClippedPairSums.exact`.
        noise: the rule; its `PairNoise.event` is the record of this call.
        rng: for tests only; None draws from the operating system's entropy.
    """
    often = noise.sigma / math.sqrt(2)
    found = {}
    for name in sorted(exact):
        if name.endswith(".count"):
            noisy = mechanisms.gaussian(exact[name], noise.sigma, rng)
        elif ".gram_" in name:
            noisy = _symmetric(exact[name], noise.sigma, often, rng)
        else:
            noisy = mechanisms.gaussian(exact[name], often, rng)
        found[name] = noisy * noise.clip**2
    return found


def _symmetric(gram: Array, sigma: float, often: float, rng: np.random.Generator | None) -> Array:
    rows, columns = np.triu_indices(len(gram), 1)
    noisy = np.zeros_like(gram)
    noisy[rows, columns] = mechanisms.gaussian(gram[rows, columns], often, rng)
    return noisy + noisy.T + np.diag(mechanisms.gaussian(gram.diagonal(), sigma, rng))
