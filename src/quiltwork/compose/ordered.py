"""Locals in one order: what every average of parameters needs first.

Bad fits are left out first, if that is asked for (`quiltwork.compose.screening`). Labels of experts mean nothing across
machines; the permutations come from the Hungarian method
(`quiltwork.models.mixture.alignment.match`), first against the middle of the locals, which no single bad fit can be,
and then against the average of the aligned ones, until no order changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from quiltwork.compose.middle import total_divergences
from quiltwork.compose.screening import screen
from quiltwork.compose.support import draw_support, shares_of, summary_of
from quiltwork.errors import CompatibilityError
from quiltwork.models.mixture.alignment import match
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.exponential import with_coefficients
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.local import Local
from quiltwork.models.mixture.machine_weights import EvidenceWeights
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.pool import softmax_gate

_ROUNDS = 10


@dataclass(frozen=True, eq=False)
class Ordered:
    """Machines whose experts line up.

    Attributes:
        locals: those that take part, as they were given.
        orders: for each of them, its experts in the common order.
        excluded: the others, and why.
    """

    locals: tuple[Local, ...]
    orders: tuple[tuple[int, ...], ...]
    excluded: Mapping[str, str]

    @cached_property
    def mixtures(self) -> tuple[Mixture[Experts], ...]:
        """The fits with their experts in the common order."""
        pairs = zip(self.locals, self.orders, strict=True)
        return tuple(arranged(local.mixture, order) for local, order in pairs)

    def mean(self) -> Mixture[Experts]:
        """Mean of the aligned parameters, weighted by rows."""
        return averaged(self.mixtures, shares_of(self.locals))


def in_order(locals_: Sequence[Local], rows: int, seed: int, robust: bool) -> Ordered:
    """The machines that take part, lined up.

    Args:
        locals_: machines with covariate summaries.
        rows: covariates to draw from the summaries; experts are compared there.
        seed: of the draw.
        robust: leave bad fits out.

    Raises:
        CompatibilityError: machines have different numbers of experts; says which.
        MissingPart: a machine declared no summary.
    """
    require_same_number(locals_)
    excluded = _screened(locals_, draw_support(locals_, rows, seed)) if robust else {}
    kept = tuple(local for local in locals_ if local.party not in excluded)
    return Ordered(kept, orders(kept, draw_support(kept, rows, seed)), excluded)


def _screened(locals_: Sequence[Local], x: Array) -> Mapping[str, str]:
    posterior = EvidenceWeights(tuple(summary_of(local) for local in locals_), np.ones(len(locals_)))
    return screen(locals_, x, posterior)


def orders(locals_: Sequence[Local], x: Array) -> tuple[tuple[int, ...], ...]:
    """For each machine, its experts in the common order.

    Args:
        locals_: machines with as many experts each.
        x: float64 ``[n, d]``, where experts are compared.

    Raises:
        CompatibilityError: machines have different numbers of experts; says which.
    """
    require_same_number(locals_)
    shares = shares_of(locals_)
    target = locals_[int(np.argmin(total_divergences(locals_, x)))].mixture
    found: tuple[tuple[int, ...], ...] = ()
    for _ in range(_ROUNDS):
        before = found
        found = tuple(tuple(map(int, match(target, local.mixture, x))) for local in locals_)
        if found == before:
            break
        aligned = [arranged(local.mixture, order) for local, order in zip(locals_, found, strict=True)]
        target = averaged(aligned, shares)
    return found


def arranged(mixture: Mixture[Experts], order: Sequence[int]) -> Mixture[Experts]:
    """The same density with its experts in another order; the gate's last row is zero."""
    return Mixture(softmax_gate(mixture).select(order).anchored(), mixture.experts.select(order))


def averaged(mixtures: Sequence[Mixture[Experts]], shares: Array) -> Mixture[Experts]:
    """Mean of gates' and experts' parameters, weighted by ``shares`` ``[M]`` that sum to one."""
    gate = np.tensordot(shares, np.stack([softmax_gate(mixture).coefficients for mixture in mixtures]), 1)
    coefficients = np.tensordot(shares, np.stack([mixture.experts.coefficients for mixture in mixtures]), 1)
    experts = with_coefficients(mixtures[0].experts, coefficients)
    if isinstance(experts, GaussianExperts):
        every = [mixture.experts.parameters()["variances"] for mixture in mixtures]
        return Mixture(SoftmaxGate(gate), replace(experts, variances=np.tensordot(shares, np.stack(every), 1)))
    return Mixture(SoftmaxGate(gate), experts)


def require_same_number(locals_: Sequence[Local]) -> None:
    """Refuse machines whose numbers of experts differ.

    Raises:
        CompatibilityError: names those that differ from most.
    """
    counts = Counter(local.mixture.n_experts for local in locals_)
    usual = max(counts, key=lambda k: (counts[k], k))
    others = [f"'{local.party}' has {local.mixture.n_experts}" for local in locals_ if local.mixture.n_experts != usual]
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        raise CompatibilityError(
            f"parties with other numbers of experts: {', '.join(others[:5])}{more}",
            why=f"the others have {usual}, and an average needs a counterpart of every expert on every machine",
            mend="Use reduction, middle or ambient, which take any, or ask for fits with as many experts.",
        )
