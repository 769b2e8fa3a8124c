"""Experts: K small models of a response given covariates, one class a family, all asked the same questions.

``Experts`` is the noun. A family's arrays have the experts first; ``y`` is float64 ``[n, q]`` for Gaussian experts,
float64 ``[n, 1]`` counts for Poisson ones and int64 ``[n]`` class codes for multinomial ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from quiltwork.models.mixture.design import Array

FamilyName: TypeAlias = Literal["gaussian", "multinomial", "poisson"]
Response: TypeAlias = NDArray[Any]


class Experts(Protocol):
    """K models phi_k(y | x) of one family.

    Attributes:
        coefficients: float64 ``[K, q, 1 + d]``; q is the number of outputs, or of classes.
    """

    @property
    def family(self) -> FamilyName:
        """Which distribution."""
        ...

    @property
    def coefficients(self) -> Array:
        """float64 ``[K, q, 1 + d]``."""
        ...

    @property
    def n_experts(self) -> int:
        """K."""
        ...

    def log_density(self, x: Array, y: Response) -> Array:
        """log phi_k(y_i | x_i): float64 ``[n, K]``."""
        ...

    def mean(self, x: Array) -> Array:
        """E_k[y | x]: float64 ``[n, K, q]``; class probabilities for multinomial experts."""
        ...

    def variance(self, x: Array) -> Array:
        """Var_k[y | x], output by output: float64 ``[n, K, q]``."""
        ...

    def divergence(self, other: Self, x: Array) -> Array:
        """KL(phi_l || other_k) at each x, in nats: float64 ``[n, L, K]``. For few experts: it is materialised."""
        ...

    def sample(self, x: Array, which: NDArray[np.intp], rng: np.random.Generator) -> Response:
        """One response a row, drawn from expert ``which[i]`` at ``x[i]``."""
        ...

    def select(self, order: Sequence[int]) -> Self:
        """The experts ``order``, in that order."""
        ...

    def parameters(self) -> dict[str, Array]:
        """Every array that determines the experts, by name; ``coefficients`` among them."""
        ...
