"""Reduction: a pooled large mixture of experts becomes one with K experts (Chamroukhi and Pham, arXiv 2312.09877).

    argmin_h  E_x  sum_l pi_l(x) min_k KL(phi_l(. | x) || h_k(. | x))

by the steps of ``majorise``, from several starts; then a gate for the experts that were found. No response enters, and
covariates only as a support on which the machines are compared, so that nothing but parameters needs to be known.

Departures from the paper's procedure, each for a reason: its gate is fitted to responses, and here follows from the
plan or from the machines' own gates; its support is rows of the pooled data, and here any covariates; experts may be of
any exponential family; machines may have different numbers of experts.

``experts="precision"`` takes from the transport only which expert is which, and pools them as one fit on all rows
would: with the Gram matrices G that machines declare,

    b_k = (sum_l G_l)^-1 sum_l G_l b_l      v_k = sum_l [ n_l v_l + (b_l - b_k)' G_l (b_l - b_k) ] / sum_l n_l.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.exponential import joined
from quiltwork.models.mixture.gate_choice import not_behind
from quiltwork.models.mixture.gate_reduction import correspondence, logit_gate, projected_gate
from quiltwork.models.mixture.gates import MachineWeights
from quiltwork.models.mixture.majorise import Descent, descend, make_plan
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.pool import Pool, everywhere
from quiltwork.models.mixture.regression import weighted_least_squares
from quiltwork.models.mixture.seeding import starts
from quiltwork.models.mixture.small_samples import trusted

GateName = Literal["auto", "logit", "projection"]

START_ROWS = 500
"""Support rows on which starts are tried."""

SOFTNESS = (1.0, 0.25, 0.0625)
"""Successive softnesses of one more start, in units of the objective that it starts from."""


@dataclass(frozen=True)
class Steps:
    """How hard to look.

    Attributes:
        starts: how many starts are tried on a part of the support before the best goes on with all of it: the greedy
            choice, the same by soft plans, then locals.
        max_iterations: steps at most, of each.
        tolerance: stop when a step gains no more, in nats a row.
    """

    starts: int = 4
    max_iterations: int = 200
    tolerance: float = 1e-9


@dataclass(frozen=True, eq=False)
class Reduced:
    """What became of a pool.

    Attributes:
        mixture: K experts under a softmax gate, raw units.
        path: the objective after each step, nats a row.
        shares: float64 ``[K]``, the pool's weight that went to each expert.
        gate: how the gate was found, ``logit`` or ``projection``.
        settled: whether the steps ended by themselves.
    """

    mixture: Mixture[Experts]
    path: tuple[float, ...]
    shares: Array
    gate: GateName
    settled: bool


def reduce_mixtures(
    mixtures: Sequence[Mixture[Experts]],
    weights: MachineWeights,
    support: Array,
    n_experts: int,
    *,
    gate: GateName = "auto",
    steps: Steps | None = None,
) -> Reduced:
    """Reduce mixtures that are evaluated everywhere on a support.

    Args:
        mixtures: one a machine, of one family, under softmax gates; numbers of experts may differ.
        weights: lambda_m(x), for as many machines.
        support: covariates, float64 ``[S, d]``.
        n_experts: K.
        gate: see ``gate_reduction``, and ``gate_choice`` for ``auto``.
        steps: how hard to look.

    Raises:
        InvalidOption: K is none, or larger than the number of pooled experts; a gate is no softmax gate.
    """
    return reduce_pool(everywhere(mixtures, weights, support), n_experts, gate=gate, steps=steps)


def reduce_pool(pool: Pool, n_experts: int, *, gate: GateName = "auto", steps: Steps | None = None) -> Reduced:
    """Reduce a pool; see `reduce_mixtures`."""
    found = reduced_experts(pool, n_experts, steps or Steps())
    return with_gate(pool, found, found.experts, gate)


def reduced_experts(pool: Pool, n_experts: int, steps: Steps) -> Descent:
    """The experts alone, in the pool's units: the best start on a part of the support, then all of it."""
    available = sum(machine.mixture.n_experts for machine in pool.machines)
    if not 1 <= n_experts <= available:
        raise InvalidOption(
            f"n_experts={n_experts}",
            why=f"the machines have {available} experts in all, and a reduction has at least one and no more than that",
            mend="Choose a number between.",
        )
    believed = trusted(pool)
    few = believed.thinned(START_ROWS)
    first, *others = starts(few, n_experts, steps.starts)
    begun = [_descend(few, first, steps)]
    if steps.starts > 1:
        begun.append(_softly(few, first, steps))
        begun += [_descend(few, start, steps) for start in others[: steps.starts - 2]]
    best = min(begun, key=lambda descent: descent.plan.objective)
    return _descend(believed, best.experts, steps)


def with_gate(pool: Pool, found: Descent, experts: Experts, gate: GateName) -> Reduced:
    """The found experts, or what was made of them, under a gate; everything in raw units.

    Logits are averaged over the machines with at least K experts. Where these hold less than half of the weight, or the
    average is not finite, the gate is projected; so it is under ``auto`` where the pool says that it is better.
    """
    projected = Mixture(projected_gate(pool, found.experts), experts)
    logits = _by_logits(pool, found, experts) if gate != "projection" else None
    if logits is not None and (gate == "logit" or not_behind(pool, logits, projected)):
        return Reduced(pool.units.back(logits), found.path, found.plan.shares, "logit", found.settled)
    return Reduced(pool.units.back(projected), found.path, found.plan.shares, "projection", found.settled)


def _by_logits(pool: Pool, found: Descent, experts: Experts) -> Mixture[Experts] | None:
    """The experts under the mean of logits, if there is one."""
    owners = correspondence(pool, found.experts)
    if sum(machine.share for machine, own in zip(pool.machines, owners, strict=True) if own is not None) < 0.5:
        return None
    gate = logit_gate(pool, owners, found.experts.n_experts)
    return Mixture(gate, experts) if np.isfinite(gate.coefficients).all() else None


def pooled_by_precision(pool: Pool, experts: Experts, grams: Sequence[Array]) -> Experts:
    """Linear experts pooled by Gram matrices, each local expert with the reduced one it corresponds to.

    Args:
        pool: of linear experts.
        experts: the reduced ones, in the pool's units; one that nothing corresponds to stays as it is.
        grams: float64 ``[K_m, p, p]`` a machine, raw units.
    """
    nearest = [cost.argmin(axis=1) for cost in pool.whole_costs(experts)]
    pairs = zip(correspondence(pool, experts), nearest, strict=True)
    owners = np.concatenate([near if own is None else own for own, near in pairs])
    local = joined([machine.mixture.experts for machine in pool.machines])
    gram = pool.units.grams(np.concatenate(grams))
    assert isinstance(local, GaussianExperts)
    assert isinstance(experts, GaussianExperts)
    coefficients, variances = experts.coefficients.copy(), experts.variances.copy()
    for k in np.unique(owners):
        mine = owners == k
        b, g, counts = local.coefficients[mine], gram[mine], gram[mine, 0, 0]
        coefficients[k] = weighted_least_squares(g.sum(axis=0), np.einsum("lpr,lqr->pq", g, b))
        gap = b - coefficients[k]
        within = counts @ local.variances[mine] + np.einsum("lqp,lpr,lqr->q", gap, g, gap)
        variances[k] = within / counts.sum()
    return GaussianExperts(coefficients, variances)


def _descend(pool: Pool, start: Experts, steps: Steps) -> Descent:
    return descend(pool, start, max_iterations=steps.max_iterations, tolerance=steps.tolerance)


def _softly(pool: Pool, start: Experts, steps: Steps) -> Descent:
    """Soft plans of falling softness, then hard ones."""
    experts, level = start, make_plan(pool, start).objective
    for softness in SOFTNESS:
        if level > 0:
            experts = descend(
                pool, experts, max_iterations=10, tolerance=steps.tolerance, softness=softness * level
            ).experts
    return _descend(pool, experts, steps)
