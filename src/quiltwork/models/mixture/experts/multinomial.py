"""Multinomial-logistic experts: P_k(y = c | x) proportional to exp(b_kc0 + x'b_kc), classes c = 0..C-1.

KL at x = sum_c p_lc (log p_lc - log p_kc)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from quiltwork.models.mixture.design import Array, affine
from quiltwork.models.mixture.experts import FamilyName, Response


@dataclass(frozen=True, eq=False)
class MultinomialExperts:
    """K multinomial-logistic experts over C classes.

    Attributes:
        coefficients: float64 ``[K, C, 1 + d]``, intercept first; adding one vector to an expert's rows changes nothing.
    """

    coefficients: Array

    @property
    def family(self) -> FamilyName:
        """``multinomial``."""
        return "multinomial"

    @property
    def n_experts(self) -> int:
        """K."""
        return len(self.coefficients)

    def log_class_probabilities(self, x: Array) -> Array:
        """float64 ``[n, K, C]``."""
        return np.asarray(log_softmax(affine(x, self.coefficients), axis=2), dtype=np.float64)

    def log_density(self, x: Array, y: Response) -> Array:
        """log P_k(y_i | x_i) for class codes ``y`` int64 ``[n]``: float64 ``[n, K]``."""
        return np.asarray(self.log_class_probabilities(x)[np.arange(len(x)), :, y], dtype=np.float64)

    def mean(self, x: Array) -> Array:
        """Class probabilities: float64 ``[n, K, C]``."""
        return np.exp(self.log_class_probabilities(x))

    def variance(self, x: Array) -> Array:
        """p (1 - p) of every class: float64 ``[n, K, C]``."""
        p = self.mean(x)
        return np.asarray(p * (1 - p), dtype=np.float64)

    def divergence(self, other: MultinomialExperts, x: Array) -> Array:
        """KL at each x: float64 ``[n, L, K]``."""
        own, its = self.log_class_probabilities(x), other.log_class_probabilities(x)
        p = np.exp(own)
        return np.asarray((p * own).sum(axis=2)[:, :, None] - p @ its.transpose(0, 2, 1), dtype=np.float64)

    def sample(self, x: Array, which: NDArray[np.intp], rng: np.random.Generator) -> Response:
        """Class codes, int64 ``[n]``."""
        log_p = self.log_class_probabilities(x)[np.arange(len(x)), which]
        return np.asarray(np.argmax(log_p + rng.gumbel(size=log_p.shape), axis=1), dtype=np.int64)

    def select(self, order: Sequence[int]) -> MultinomialExperts:
        """The experts ``order``, in that order."""
        return MultinomialExperts(self.coefficients[list(order)])

    def parameters(self) -> dict[str, Array]:
        """``coefficients``."""
        return {"coefficients": self.coefficients}
