"""Where EM begins: several rough partitions compete, and the best goes on.

A partition cuts the space of f = (z, t y) into the cells of K random points c_k ~ N(0, I), one random affine score an
expert: argmax_k c_k'f - |c_k|^2 / 2. Starts take turns between t = 0, cells of covariates, which suits experts that
live apart, and a large t, cells of responses, which suits experts that overlap. Neither depends on the order of rows,
nor on whether a row is weighted or repeated. One M-step on the cells gives experts under an even gate, and a loose run
of EM follows. As soon as two starts arrive at the same best log-likelihood, or one plainly leads to the other's, the
competition ends; runs that agree, from cells of different kinds, are seldom wrong, and cheap.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.em import SAME_VALUE, Run, maximise, nats
from quiltwork.models.mixture.likelihood import Given, Pass, Problem
from quiltwork.models.mixture.standard import Block, Standard
from quiltwork.models.mixture.steps import Parameters

SOFTENING = 0.1
"""Share of a row's weight that a partition spreads over all experts, so that none is empty."""

LOOSE_TOLERANCE = 1e-4
"""Of a competing run, as `em.nats` has it."""

STRETCHES = (0.0, 3.0)
"""t, in units in which responses together weigh as much as covariates together."""

FIRST_STEPS = 3


@dataclass(frozen=True)
class Competition:
    """How starts compete.

    Attributes:
        n_init: starts at most.
        agreeing: the competition ends when so many starts share the best value.
        max_iterations: of a competing run.
        rows: on at most so many rows, a random part of larger tables.
    """

    n_init: int
    agreeing: int = 2
    max_iterations: int = 40
    rows: int = 100_000


def best_start(
    problem: Problem, n_experts: int, competition: Competition, rng: np.random.Generator
) -> Parameters | Pass:
    """The best of several loose runs: its last pass, or its parameters if it saw some of the rows only."""
    part = _part(problem, competition.rows, rng)
    if n_experts == 1:
        return _first(part, 1, _everyone)
    runs: list[Run] = []
    while len(runs) < competition.n_init and not _agreed(runs, competition.agreeing, part):
        stretch = STRETCHES[len(runs) % len(STRETCHES)]
        start = _first(part, n_experts, partition(part, n_experts, stretch, rng))
        rival = max((run.last.value for run in runs), default=-np.inf)
        most = competition.max_iterations
        runs.append(maximise(part, start, tolerance=LOOSE_TOLERANCE, max_iterations=most, rival=rival))
    best = max(runs, key=lambda run: run.last.value).last
    return best if part is problem else best.parameters


def partition(problem: Problem, n_experts: int, stretch: float, rng: np.random.Generator) -> Given:
    """Responsibilities of a random partition, softened.

    Args:
        problem: whose rows are parted.
        n_experts: K.
        stretch: t, see above.
        rng: draws the points.
    """
    d = problem.rows.p - 1
    r = len(problem.step.position(next(problem.rows.blocks())))
    centres = rng.standard_normal((n_experts, d + r))
    units = np.concatenate([np.ones(d), np.full(r, stretch * np.sqrt(max(d, 1) / max(r, 1)))])
    bias = 0.5 * (centres**2) @ (units > 0)

    def given(block: Block) -> Array:
        place = np.concatenate([block.z[1:], problem.step.position(block)])
        score = (centres * units) @ place - bias[:, None]
        tau = np.full(score.shape, SOFTENING / n_experts)
        tau[np.argmax(score, axis=0), np.arange(score.shape[1])] += 1 - SOFTENING
        return tau

    return given


def _first(problem: Problem, n_experts: int, given: Given) -> Parameters:
    """Experts from responsibilities, by one exact step or some safe ones, under an even gate."""
    blank = problem.step.blank(n_experts, problem.rows.p)
    if problem.step.exact:
        gateless = replace(problem, gate_step="bohning")  # whose passes have no curvature of the gate
        found = problem.step.update(blank, gateless.at(blank, given).sums)
    else:
        found = maximise(problem, blank, tolerance=0.0, max_iterations=FIRST_STEPS, given=given).last.parameters
    return replace(found, gate=blank.gate)


def _everyone(block: Block) -> Array:
    return np.ones((1, block.z.shape[1]))


def _agreed(runs: list[Run], agreeing: int, problem: Problem) -> bool:
    values = sorted((run.end for run in runs), reverse=True)
    return len(values) >= agreeing and values[0] - values[agreeing - 1] <= nats(SAME_VALUE, problem)


def _part(problem: Problem, rows: int, rng: np.random.Generator) -> Problem:
    """The problem on some of its rows, in the same units, if it has more than ``rows``."""
    whole = problem.rows
    if len(whole.x) <= rows:
        return problem
    chosen = np.sort(rng.choice(len(whole.x), rows, replace=False))
    if not whole.weights[chosen].any():
        return problem
    part = Standard(whole.x[chosen], whole.weights[chosen], whole.centre, whole.scale)
    return replace(problem, rows=part, step=problem.step.take(chosen))
