"""One pass over the rows: the penalised log-likelihood of the observed data at some parameters, and the sums of which
both halves of the next step are made.

    L(theta) = sum_i w_i log sum_k pi_k(x_i) phi_k(y_i | x_i)  -  ridge_gate/2 |gate slopes|^2  -  penalty(experts)

The gate's half is one Newton step, or one under Böhning's (1992) fixed bound on its curvature; the experts' half is
that of their family, see ``steps``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np

from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.regression import newton_step, softmax_curvature, softmax_hessian
from quiltwork.models.mixture.standard import Block, Standard, symmetric
from quiltwork.models.mixture.steps import Parameters, Step, Sums

Given: TypeAlias = Callable[[Block], Array]
GateStep: TypeAlias = Literal["newton", "bohning"]

LEAST_EXPONENT = -300.0
"""Smaller ones are raised to it: probabilities of 1e-131 change no sum, but products of them would be denormal numbers,
on which processors are many times slower."""


@dataclass(frozen=True, eq=False)
class Pass:
    """What one pass over the rows says at some parameters.

    Attributes:
        parameters: where.
        value: L.
        log_likelihood: L without its penalties.
        gate_slope: float64 ``[K, p]``, gradient of L by the gate.
        gate_edges: float64 ``[K (K - 1) / 2, p, p]``, its curvature's Laplacian; none under a fixed bound.
        sums: for the experts' step.
    """

    parameters: Parameters
    value: float
    log_likelihood: float
    gate_slope: Array
    gate_edges: Array
    sums: Sums


class _Accumulator:
    """Adds the same sums block after block."""

    def __init__(self) -> None:
        self.parts: list[Any] = []

    def add(self, *parts: Any) -> None:
        self.parts = [a + b for a, b in zip(self.parts, parts, strict=True)] if self.parts else list(parts)


@dataclass(frozen=True, eq=False)
class Problem:
    """The rows and the penalised likelihood over them.

    Attributes:
        rows: in standard units, with their weights.
        step: the family's step, which holds the responses.
        ridge_gate: float64 ``[p]``, zero at the intercept.
        gate_step: how the gate moves.
    """

    rows: Standard
    step: Step
    ridge_gate: Array
    gate_step: GateStep = "newton"

    def at(self, parameters: Parameters, given: Given | None = None) -> Pass:
        """One pass over the rows.

        Args:
            parameters: where.
            given: responsibilities ``[K, B]`` of a block, in place of the posterior; the value is then the expected
                complete log-likelihood under them.
        """
        k, p = parameters.gate.shape
        linear = np.concatenate([parameters.gate, parameters.coefficients.reshape(-1, p)])
        newton, sums = self.gate_step == "newton", _Accumulator()
        for block in self.rows.blocks():
            w = self.rows.weights[block.rows]
            predictors = linear @ block.z
            log_pi, pi = _softmax(predictors[:k])
            log_phi, state = self.step.log_density(parameters, block, predictors[k:])
            log_phi += log_pi
            tau, log_f = _responsibilities(log_phi) if given is None else _weighed(log_phi, given(block))
            tau *= w
            ones, twos, squares = self.step.sums(block, tau, state)
            edges = softmax_curvature(pi, w) if newton else np.empty((0, len(w)))
            pi *= -w
            pi += tau
            first, second = np.concatenate([pi, ones]), np.concatenate([edges, twos])
            sums.add(float(w @ log_f), tau.sum(axis=1), block.first(first), block.second(second), squares)
        return self._pass(parameters, sums)

    def _pass(self, parameters: Parameters, sums: _Accumulator) -> Pass:
        k, p = parameters.gate.shape
        n_edges = k * (k - 1) // 2 if self.gate_step == "newton" else 0
        total, mass, first, second, squares = sums.parts
        full = symmetric(second, p)
        penalty = 0.5 * float((parameters.gate**2 @ self.ridge_gate).sum()) + self.step.penalty(parameters)
        slope = first[:k] - self.ridge_gate * parameters.gate
        return Pass(
            parameters, total - penalty, total, slope, full[:n_edges], Sums(mass, first[k:], full[n_edges:], squares)
        )

    def target(self, here: Pass) -> Parameters:
        """Where a whole step leads."""
        moved = self.step.update(here.parameters, here.sums)
        return replace(moved, gate=moved.gate + self._gate_direction(here))

    def _gate_direction(self, here: Pass) -> Array:
        """The gate's step, float64 ``[K, p]``."""
        slope = here.gate_slope
        if self.gate_step == "bohning":
            return np.asarray(newton_step(slope.T, self._bound).T)
        hessian = softmax_hessian(here.gate_edges, len(slope), self.ridge_gate)
        return newton_step(slope.ravel(), hessian).reshape(slope.shape)

    @cached_property
    def _bound(self) -> Array:
        """Böhning's (1992) bound on the gate's curvature, 1/2 (I - 11'/K) (x) Z'WZ: on centred gates, Z'WZ / 2."""
        gram = self.rows.no_second(1)
        for block in self.rows.blocks():
            gram += block.second(self.rows.weights[None, block.rows])
        return np.asarray(symmetric(gram, self.rows.p)[0] / 2 + np.diag(self.ridge_gate))


def _softmax(logits: Array) -> tuple[Array, Array]:
    """Logarithms and probabilities over the first axis."""
    logits = logits - logits.max(axis=0)
    p = np.exp(np.maximum(logits, LEAST_EXPONENT))
    total = p.sum(axis=0)
    p /= total
    logits -= np.log(total)
    return logits, p


def _responsibilities(joint: Array) -> tuple[Array, Array]:
    """tau ``[K, B]`` and log f ``[B]`` from log pi + log phi."""
    top = joint.max(axis=0)
    joint -= top
    np.maximum(joint, LEAST_EXPONENT, out=joint)
    tau = np.exp(joint, out=joint)
    total = tau.sum(axis=0)
    tau /= total
    return tau, np.log(total) + top


def _weighed(joint: Array, tau: Array) -> tuple[Array, Array]:
    """The same for given responsibilities: the expectation of ``joint`` stands for log f."""
    return tau.copy(), (tau * joint).sum(axis=0)
