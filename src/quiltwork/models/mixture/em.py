"""Expectation-maximisation for mixtures of experts. It never lowers the penalised log-likelihood of the observed data:

    L(theta) = sum_i w_i log sum_k pi_k(x_i) phi_k(y_i | x_i)  -  ridge_gate/2 |gate slopes|^2  -  penalty(experts)

One pass over the rows gives L at theta and the sums of which both halves of the M-step are made: one Newton step of the
gate (or one step under Böhning's fixed bound on its curvature) and the experts' step, see ``steps``. The next pass says
whether L rose. If not, which only a Newton step can cause, that step is halved; along it the expected complete
log-likelihood rises at first, and L with it (Dempster, Laird and Rubin 1977; Jordan and Jacobs 1994). So a step costs
one pass, and no step is taken on trust.

An expert that loses all its rows keeps its last coefficients while the gate closes on it.
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

MOST_HALVINGS = 30

LEAST_EXPONENT = -300.0
"""Smaller ones are raised to it: probabilities of 1e-131 change no sum, but products of them would be denormal numbers,
on which processors are many times slower."""

PATIENCE = 20
"""Iterations before a run is given up; from a rough start the first ones may be slow."""

WHOLE_WEIGHT = 1000.0
"""Tolerances are in nats per unit of weight up to this weight. For larger tables they are in nats altogether, since the
total is what is compared with standard errors."""

ROUNDING = 1e-13
"""A fall of the log-likelihood by less than this share of its size is rounding."""


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


@dataclass(frozen=True, eq=False)
class Run:
    """Where EM came to.

    Attributes:
        last: the pass at the last parameters.
        path: L at the start and after every iteration.
        converged: whether the last iteration gained less than the tolerance.
    """

    last: Pass
    path: tuple[float, ...]
    converged: bool


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


def maximise(
    problem: Problem,
    start: Parameters | Pass,
    *,
    tolerance: float,
    max_iterations: int,
    given: Given | None = None,
    rival: float = -np.inf,
    watch: Callable[[int, float], None] | None = None,
) -> Run:
    """EM from a start.

    Args:
        problem: rows and likelihood.
        start: first parameters, or the pass at them.
        tolerance: stop when an iteration gains at most so many nats per unit of weight, see `nats`.
        max_iterations: at most.
        given: fixed responsibilities, see `Problem.at`.
        rival: give up, after `PATIENCE` iterations, when the pace of the last one would not lead to this value.
        watch: told the iteration and L after each.

    Returns:
        the last pass and how it came there; ``path`` does not fall.
    """
    enough = nats(tolerance, problem)
    here = start if isinstance(start, Pass) else problem.at(start, given)
    path, converged = [here.value], False
    for iteration in range(max_iterations):
        there = _next(problem, here, given)
        converged = there.value - here.value <= enough
        here = there
        path.append(here.value)
        if watch is not None:
            watch(iteration + 1, here.value)
        left = max_iterations - iteration - 1
        if converged or (iteration >= PATIENCE and here.value + left * (here.value - path[-2]) < rival):
            break
    return Run(here, tuple(path), converged)


def nats(tolerance: float, problem: Problem) -> float:
    """A tolerance per unit of weight as one of L, see `WHOLE_WEIGHT`."""
    return tolerance * min(float(problem.rows.weights.sum()), WHOLE_WEIGHT)


def _next(problem: Problem, here: Pass, given: Given | None) -> Pass:
    """One EM iteration; ``here`` itself where no step raises L."""
    target = problem.target(here)
    least = here.value - ROUNDING * abs(here.value)
    for halving in range(MOST_HALVINGS):
        there = problem.at(_part(problem.step, here.parameters, target, 0.5**halving), given)
        if there.value >= least:
            return there if there.value >= here.value else here
    return here


def _part(step: Step, here: Parameters, target: Parameters, share: float) -> Parameters:
    """Only Newton steps are shortened: an exact expert step is taken whole."""
    part = here.towards(target, share)
    return replace(part, coefficients=target.coefficients) if step.exact else part


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
