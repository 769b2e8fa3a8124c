"""A gate and experts together, and everything that can be asked of the density that they make.

    f(y | x) = sum_k pi_k(x) phi_k(y | x)

The same class serves a local model, the pooled large mixture of all machines, a reduction of it and the truth of a
simulation: they differ in their gate alone.

>>> from quiltwork.models.mixture.experts.gaussian import GaussianExperts
>>> from quiltwork.models.mixture.gates import SoftmaxGate
>>> gate = SoftmaxGate(np.array([[0.0, 2.0], [0.0, 0.0]]))
>>> experts = GaussianExperts(np.array([[[1.0, 1.0]], [[0.0, -1.0]]]), np.array([[1.0], [1.0]]))
>>> Mixture(gate, experts).mean(np.array([[0.0], [10.0]])).round(3)
array([[ 0.5],
       [11. ]])
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from quiltwork.models.mixture.design import Array, blocks
from quiltwork.models.mixture.experts import Experts, Response
from quiltwork.models.mixture.gates import Gate

E = TypeVar("E", bound=Experts)


@dataclass(frozen=True, eq=False)
class Mixture(Generic[E]):
    """A conditional density with K experts.

    Attributes:
        gate: weights pi_k(x).
        experts: densities phi_k(y | x); as many as the gate has.
    """

    gate: Gate
    experts: E

    @property
    def n_experts(self) -> int:
        """K."""
        return self.experts.n_experts

    @property
    def n_features(self) -> int:
        """d, covariates without the intercept."""
        return int(self.experts.coefficients.shape[2]) - 1

    def log_gate(self, x: Array) -> Array:
        """log pi_k(x): float64 ``[n, K]``."""
        return self.gate.log_probabilities(x)

    def log_joint(self, x: Array, y: Response) -> Array:
        """log pi_k(x) + log phi_k(y | x): float64 ``[n, K]``."""
        return self.gate.log_probabilities(x) + self.experts.log_density(x, y)

    def log_density(self, x: Array, y: Response) -> Array:
        """log f(y_i | x_i) in nats: float64 ``[n]``, computed block by block."""
        values = np.empty(len(x))
        for rows in blocks(len(x)):
            values[rows] = logsumexp(self.log_joint(x[rows], y[rows]), axis=1)
        return values

    def responsibilities(self, x: Array, y: Response) -> Array:
        """Posterior of the expert given x and y: float64 ``[n, K]``."""
        joint = self.log_joint(x, y)
        return np.asarray(np.exp(joint - logsumexp(joint, axis=1, keepdims=True)), dtype=np.float64)

    def mean(self, x: Array) -> Array:
        """E[y | x]: float64 ``[n, q]``; class probabilities for multinomial experts."""
        values = np.empty((len(x), self.experts.coefficients.shape[1]))
        for rows in blocks(len(x)):
            values[rows] = np.einsum("nk,nkq->nq", np.exp(self.log_gate(x[rows])), self.experts.mean(x[rows]))
        return values

    def variance(self, x: Array) -> Array:
        """Var[y | x] = E[variance] + Var[mean] over experts, output by output: float64 ``[n, q]``."""
        values = np.empty((len(x), self.experts.coefficients.shape[1]))
        for rows in blocks(len(x)):
            weight, mean = np.exp(self.log_gate(x[rows])), self.experts.mean(x[rows])
            centre = np.einsum("nk,nkq->nq", weight, mean)
            spread = self.experts.variance(x[rows]) + (mean - centre[:, None, :]) ** 2
            values[rows] = np.einsum("nk,nkq->nq", weight, spread)
        return values

    def sample(self, x: Array, rng: np.random.Generator) -> tuple[Response, NDArray[np.intp]]:
        """One response a row, and the expert that gave it: ``y`` as the family has it, int ``[n]``."""
        gate = self.log_gate(x)
        which = np.argmax(gate + rng.gumbel(size=gate.shape), axis=1)
        return self.experts.sample(x, which, rng), which
