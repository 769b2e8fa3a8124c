"""Expectation-maximisation for mixtures of experts. It never lowers L, the penalised log-likelihood of ``likelihood``.

A pass at theta gives L and the next step; the next pass says whether L rose. If not, which only a Newton step can
cause, that step is halved; along it the expected complete log-likelihood rises at first, and L with it (Dempster, Laird
and Rubin 1977; Jordan and Jacobs 1994). So a step costs one pass, and no step is taken on trust.

Where experts overlap, EM creeps: gains shrink by a steady factor. Then two steps r = theta_1 - theta_0 and
r + v = theta_2 - theta_1 foretell where it would end, and the run leaps (squared extrapolation, Varadhan and Roland
2008)

    theta = theta_0 + 2 a r + a^2 v        a = |r| / |v|

if L is higher there than at theta_2; otherwise it walks on and tries again later.

An expert that loses all its rows keeps its last coefficients while the gate closes on it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.likelihood import Given, Pass, Problem
from quiltwork.models.mixture.steps import Parameters, Step

MOST_HALVINGS = 30

CREEPING = 0.5
"""A gain of more than this share of the last one is slow progress,"""

SMALL_GAIN = 1e-2
"""if it is no more than this, as `nats` has it; from a rough start, gains of any size follow one another."""

MOST_LOG_VARIANCE = 20.0
"""In standard units; far above any variance of a fit."""

FARTHEST_LEAP = 1000.0
"""The most that a may be."""

PATIENCE = 20
"""Iterations before a run is given up; from a rough start the first ones may be slow."""

SAME_VALUE = 1e-3
"""Between log-likelihoods that count as one optimum, as `nats` has it."""

QUICK = 0.4
"""A run whose gains shrink to less than this share from step to step ends about where they foretell,"""

NEAR = 0.05
"""if it is no farther from there than so many nats per unit of weight,"""

OVERSHOOT = 0.005
"""and does not promise to end higher than its rival by more than this; such a run goes on."""

WHOLE_WEIGHT = 1000.0
"""Tolerances are in nats per unit of weight up to this weight. For larger tables they are in nats altogether, since the
total is what is compared with standard errors."""

ROUNDING = 1e-13
"""A fall of the log-likelihood by less than this share of its size is rounding."""


@dataclass(frozen=True, eq=False)
class Run:
    """Where EM came to.

    Attributes:
        last: the pass at the last parameters.
        path: L at the start and after every iteration.
        converged: whether the last iteration gained less than the tolerance.
        end: L at the last pass, or the rival's where the run stopped on its way there.
    """

    last: Pass
    path: tuple[float, ...]
    converged: bool
    end: float


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
        tolerance: stop when an EM step gains at most so many nats per unit of weight, see `nats`.
        max_iterations: EM steps and leaps at most.
        given: fixed responsibilities, see `Problem.at`.
        rival: stop where the run plainly leads to this value, see `NEAR`; give up, after `PATIENCE` iterations, when
            the pace of the last one would not lead to it.
        watch: told the iteration and L after each.

    Returns:
        the last pass and how it came there; ``path`` does not fall.
    """
    enough, small = nats(tolerance, problem), nats(SMALL_GAIN, problem)
    here = start if isinstance(start, Pass) else problem.at(start, given)
    path, walked, converged, arrives, caution = [here.value], [here], False, False, 1
    for iteration in range(1, max_iterations + 1):
        leap = len(walked) > 2 * caution and _creeps(walked, small)
        there = _leap(problem, walked[-3:], given) if leap else _next(problem, here, given)
        if leap:
            caution, walked = (1 if there is not here else caution + 1), [there]
        else:
            converged = there.value - here.value <= enough
            walked.append(there)
        here = there
        path.append(here.value)
        if watch is not None:
            watch(iteration, here.value)
        pace = here.value - path[-2]
        given_up = iteration > PATIENCE and not leap and here.value + (max_iterations - iteration) * pace < rival
        arrives = len(walked) > 2 and _arrives(walked, rival, problem)
        if converged or given_up or arrives:
            break
    return Run(here, tuple(path), converged, rival if arrives else here.value)


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


def _creeps(walked: list[Pass], small: float) -> bool:
    """Whether the last two EM steps gained at a slow and steady pace."""
    first, second = (walked[i + 1].value - walked[i].value for i in (-3, -2))
    return CREEPING * first < second <= small


def _arrives(walked: list[Pass], rival: float, problem: Problem) -> bool:
    """Whether the run is quick, near the rival's value, and bound for it: gains as a geometric series."""
    first, second = (walked[i + 1].value - walked[i].value for i in (-3, -2))
    weight, here = float(problem.rows.weights.sum()), walked[-1].value
    if not (second < QUICK * first and 0 <= rival - here <= NEAR * weight):
        return False
    end = here + second**2 / (first - second)
    return -nats(SAME_VALUE, problem) <= end - rival <= OVERSHOOT * weight


def _leap(problem: Problem, walked: list[Pass], given: Given | None) -> Pass:
    """Where two steps lead if they are foretold right; the last of ``walked`` if L is not higher there."""
    zero, one, two = (_flat(each.parameters) for each in walked)
    step, turn = one - zero, two - 2 * one + zero
    far = min(max(float(np.linalg.norm(step)) / max(float(np.linalg.norm(turn)), 1e-300), 1.0), FARTHEST_LEAP)
    there = problem.at(_unflat(zero + 2 * far * step + far**2 * turn, walked[-1].parameters), given)
    return there if there.value > walked[-1].value else walked[-1]


def _flat(parameters: Parameters) -> Array:
    """All parameters in a row, variances as logarithms."""
    parts = (parameters.gate, parameters.coefficients, np.log(parameters.variances))
    return np.concatenate([part.ravel() for part in parts])


def _unflat(flat: Array, like: Parameters) -> Parameters:
    """The inverse of `_flat`; variances do not sink below the least of ``like``, which may stand at their floor."""
    gate, coefficients, logs = np.split(flat, np.cumsum([like.gate.size, like.coefficients.size]))
    variances = np.exp(np.clip(logs, np.log(like.variances).min(initial=0.0), MOST_LOG_VARIANCE))
    return Parameters(
        gate.reshape(like.gate.shape),
        coefficients.reshape(like.coefficients.shape),
        variances.reshape(like.variances.shape),
    )
