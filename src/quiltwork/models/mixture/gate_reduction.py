"""A softmax gate for reduced experts, without responses.

``projected_gate``: the plan brings mass D_k(x) to expert k. Of all softmax gates the one nearest to these masses in
Kullback-Leibler divergence, averaged over x, solves a multinomial regression with D as soft targets. It asks for no
correspondence between machines, and for any number of experts a machine. But it averages *probabilities*: machines
whose slopes scatter around the truth by estimation error have a mean probability that is flatter than the truth's.

``mean_logit_gate``: where every machine's experts pair off with the reduced ones, their logits are averaged instead,

    a_k = sum_m w_m a_m,s_m(k),      w_m proportional to N_m,

which has no such bias. A constant added to all of a machine's logits changes nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.majorise import Plan
from quiltwork.models.mixture.pool import Pool, softmax_gate
from quiltwork.models.mixture.regression import softmax_regression


def projected_gate(pool: Pool, plan: Plan, ridge: float = 0.0) -> SoftmaxGate:
    """The softmax gate nearest to the plan's masses."""
    return SoftmaxGate(softmax_regression(pool.x, plan.masses.T * len(pool.x), ridge=ridge, tolerance=1e-12))


def mean_logit_gate(pool: Pool, orders: list[NDArray[np.intp]]) -> SoftmaxGate:
    """The mean of the machines' logits, each machine's experts in the order of the reduced ones."""
    total = np.zeros_like(softmax_gate(pool.machines[0].mixture).coefficients)
    for machine, order in zip(pool.machines, orders, strict=True):
        total += machine.share * softmax_gate(machine.mixture).select([int(k) for k in order]).coefficients
    return SoftmaxGate(total)


def pairings(pool: Pool, experts: Experts) -> list[NDArray[np.intp]] | None:
    """For each machine its experts in the order of ``experts``, pairs chosen to cost least in total.

    Returns:
        int ``[K]`` a machine; None unless every machine has as many experts.
    """
    if any(machine.mixture.n_experts != experts.n_experts for machine in pool.machines):
        return None
    costs = pool.whole_costs(experts)
    return [np.asarray(linear_sum_assignment(cost.T)[1], dtype=np.intp) for cost in costs]
