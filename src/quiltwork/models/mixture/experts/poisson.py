"""Poisson experts with logarithmic link: y | x ~ Poisson(exp(b_k0 + x'b_k)).

KL at x = r_l (log r_l - log r_k) - r_l + r_k        for rates r
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from quiltwork.models.mixture.design import Array, affine
from quiltwork.models.mixture.experts import FamilyName, Response

MOST_LOG_RATE = 30.0
"""Log-rates are held below this, about 1e13 counts a row, so that far extrapolation stays finite."""


@dataclass(frozen=True, eq=False)
class PoissonExperts:
    """K Poisson experts of one count.

    Attributes:
        coefficients: float64 ``[K, 1, 1 + d]``, intercept first, of the log-rate.
    """

    coefficients: Array

    @property
    def family(self) -> FamilyName:
        """``poisson``."""
        return "poisson"

    @property
    def n_experts(self) -> int:
        """K."""
        return len(self.coefficients)

    def log_rate(self, x: Array) -> Array:
        """float64 ``[n, K, 1]``, at most `MOST_LOG_RATE`."""
        return np.minimum(affine(x, self.coefficients), MOST_LOG_RATE)

    def log_density(self, x: Array, y: Response) -> Array:
        """log of the Poisson probability of counts ``y`` ``[n, 1]``: float64 ``[n, K]``."""
        log_rate = self.log_rate(x)[:, :, 0]
        return np.asarray(y * log_rate - np.exp(log_rate) - gammaln(y + 1.0), dtype=np.float64)

    def mean(self, x: Array) -> Array:
        """Rates: float64 ``[n, K, 1]``."""
        return np.exp(self.log_rate(x))

    def variance(self, x: Array) -> Array:
        """Rates again: float64 ``[n, K, 1]``."""
        return self.mean(x)

    def divergence(self, other: PoissonExperts, x: Array) -> Array:
        """KL at each x: float64 ``[n, L, K]``."""
        own, its = self.log_rate(x), other.log_rate(x).transpose(0, 2, 1)
        return np.asarray(np.exp(own) * (own - its) - np.exp(own) + np.exp(its), dtype=np.float64)

    def sample(self, x: Array, which: NDArray[np.intp], rng: np.random.Generator) -> Response:
        """Counts as float64 ``[n, 1]``."""
        return rng.poisson(self.mean(x)[np.arange(len(x)), which]).astype(np.float64)

    def select(self, order: Sequence[int]) -> PoissonExperts:
        """The experts ``order``, in that order."""
        return PoissonExperts(self.coefficients[list(order)])

    def parameters(self) -> dict[str, Array]:
        """``coefficients``."""
        return {"coefficients": self.coefficients}
