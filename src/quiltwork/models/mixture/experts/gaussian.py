"""Linear experts with Gaussian noise: y_j | x ~ N(b_kj0 + x'b_kj, s_kj^2), outputs independent given the expert.

The divergence of expert l from expert k at x, with means m and variances s^2 (summed over outputs):

    KL = 1/2 [ log(s_k^2 / s_l^2) + s_l^2 / s_k^2 + (m_l - m_k)^2 / s_k^2 - 1 ]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quiltwork.models.mixture.design import Array, affine
from quiltwork.models.mixture.experts import FamilyName, Response


@dataclass(frozen=True, eq=False)
class GaussianExperts:
    """K linear-Gaussian experts with q outputs.

    Attributes:
        coefficients: float64 ``[K, q, 1 + d]``, intercept first.
        variances: float64 ``[K, q]``, positive, in squared units of the outputs.
    """

    coefficients: Array
    variances: Array

    @property
    def family(self) -> FamilyName:
        """``gaussian``."""
        return "gaussian"

    @property
    def n_experts(self) -> int:
        """K."""
        return len(self.coefficients)

    def log_density(self, x: Array, y: Response) -> Array:
        """log N(y; mean, variance), summed over outputs: float64 ``[n, K]``."""
        residual = y[:, None, :] - affine(x, self.coefficients)
        scaled = (residual**2 / self.variances).sum(axis=2)
        volume = np.log(2 * math.pi * self.variances).sum(axis=1)
        return np.asarray(-0.5 * (scaled + volume), dtype=np.float64)

    def mean(self, x: Array) -> Array:
        """float64 ``[n, K, q]``."""
        return affine(x, self.coefficients)

    def variance(self, x: Array) -> Array:
        """float64 ``[n, K, q]``; the same at every x."""
        return np.broadcast_to(self.variances, (len(x), *self.variances.shape))

    def divergence(self, other: GaussianExperts, x: Array) -> Array:
        """KL at each x: float64 ``[n, L, K]``."""
        gap = affine(x, self.coefficients)[:, :, None, :] - affine(x, other.coefficients)[:, None, :, :]
        ratio = self.variances[:, None, :] / other.variances[None, :, :]
        constant = (ratio - np.log(ratio) - 1).sum(axis=2)
        return np.asarray(0.5 * ((gap**2 / other.variances).sum(axis=3) + constant), dtype=np.float64)

    def sample(self, x: Array, which: NDArray[np.intp], rng: np.random.Generator) -> Response:
        """float64 ``[n, q]``."""
        mean = affine(x, self.coefficients)[np.arange(len(x)), which]
        return np.asarray(mean + np.sqrt(self.variances[which]) * rng.standard_normal(mean.shape))

    def select(self, order: Sequence[int]) -> GaussianExperts:
        """The experts ``order``, in that order."""
        return GaussianExperts(self.coefficients[list(order)], self.variances[list(order)])

    def parameters(self) -> dict[str, Array]:
        """``coefficients`` and ``variances``."""
        return {"coefficients": self.coefficients, "variances": self.variances}
