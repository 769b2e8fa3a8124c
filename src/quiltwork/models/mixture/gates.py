"""Gates: how much each expert counts at x.

* ``SoftmaxGate``: pi_k(x) = exp(a_k0 + x'a_k) / sum_j exp(a_j0 + x'a_j). Adding one vector to all rows changes
  nothing; ``anchored`` fixes that freedom by a last row of zeros, and equality is judged after it.
* ``PooledGate``: machine m has gate pi_m over its own experts and weight lambda_m(x); the pooled large mixture has
  pi_(m,k)(x) = lambda_m(x) pi_mk(x). Weights may follow x, see ``MachineWeights``.

Everything is computed and returned as logarithms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.special import log_softmax

from quiltwork.models.mixture.design import Array, affine


class Gate(Protocol):
    """Weights over experts that depend on x."""

    @property
    def n_experts(self) -> int:
        """K."""
        ...

    def log_probabilities(self, x: Array) -> Array:
        """float64 ``[n, K]``; rows are normalised."""
        ...


@dataclass(frozen=True, eq=False)
class SoftmaxGate:
    """Multinomial logistic weights.

    Attributes:
        coefficients: float64 ``[K, 1 + d]``, intercept first.
    """

    coefficients: Array

    @property
    def n_experts(self) -> int:
        """K."""
        return len(self.coefficients)

    def log_probabilities(self, x: Array) -> Array:
        """float64 ``[n, K]``."""
        return np.asarray(log_softmax(affine(x, self.coefficients), axis=1), dtype=np.float64)

    def anchored(self) -> SoftmaxGate:
        """The same gate with zeros in its last row."""
        return SoftmaxGate(self.coefficients - self.coefficients[-1])

    def select(self, order: Sequence[int]) -> SoftmaxGate:
        """The gate over the experts ``order``, in that order."""
        return SoftmaxGate(self.coefficients[list(order)])


class MachineWeights(Protocol):
    """How much each machine counts at x."""

    def log_weights(self, x: Array) -> Array:
        """float64 ``[n, M]``; rows are normalised."""
        ...


@dataclass(frozen=True, eq=False)
class ConstantWeights:
    """The same weights everywhere, N_m / N as a rule.

    Attributes:
        weights: float64 ``[M]``, positive, in any scale.
    """

    weights: Array

    def log_weights(self, x: Array) -> Array:
        """float64 ``[n, M]``."""
        logs = np.log(self.weights) - np.log(self.weights.sum())
        return np.broadcast_to(logs, (len(x), len(logs)))


@dataclass(frozen=True, eq=False)
class PooledGate:
    """The gate of the pooled large mixture: machine m's gate, weighted by lambda_m(x).

    Attributes:
        gates: one a machine, in their order.
        weights: the machines' weights.
    """

    gates: tuple[SoftmaxGate, ...]
    weights: MachineWeights

    @property
    def n_experts(self) -> int:
        """L, the sum of the machines' numbers of experts."""
        return sum(gate.n_experts for gate in self.gates)

    def log_probabilities(self, x: Array) -> Array:
        """float64 ``[n, L]``; machine after machine."""
        machines = self.weights.log_weights(x)
        parts = [gate.log_probabilities(x) + machines[:, [m]] for m, gate in enumerate(self.gates)]
        return np.concatenate(parts, axis=1)
