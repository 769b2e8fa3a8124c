"""Precision average: aligned experts, averaged by how sharply each machine's rows determine them.

With Grams G_mk = sum_i tau_ik x~_i x~_i' and the Hessian H_m of the gate's part of the negative log-likelihood, each at
the machine's own optimum, and n_mk = (G_mk)_00 the rows that expert k accounts for,

    b_k   = (sum_m G_mk)^-1 sum_m G_mk b_mk
    s_k^2 = sum_m [ n_mk s_mk^2 + (b_mk - b_k)' G_mk (b_mk - b_k) ] / sum_m n_mk
    a     = (sum_m H_m)^-1 sum_m H_m a_m

The first two are what least squares gives on the rows of all machines together, if each row keeps its responsibilities;
the third is one Newton step towards it. Where machines see different covariates this is what an average should be.
Directions that no machine's rows determine keep the average weighted by rows.

Hessians belong to a gate whose last row is held at zero. Adding one vector to all rows of a gate changes no density, so
the Hessian of all K rows has block rows and columns that sum to zero; from the K - 1 given blocks follows the last, and
with it the Hessian in any order of experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quiltwork.compose.ordered import in_order
from quiltwork.compose.support import precision_of, require_support
from quiltwork.compose.tables import Local, Precision, Solution, Table
from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.pool import softmax_gate
from quiltwork.models.mixture.regression import weighted_least_squares


@dataclass(frozen=True)
class PrecisionAverage:
    """Mean of aligned parameters of Gaussian experts, weighted by precision.

    Attributes:
        support: covariates at which experts are compared.
        seed: of their draw.
        robust: leave bad fits out.
    """

    support: int = 200
    seed: int = 0
    robust: bool = True

    def __post_init__(self) -> None:
        require_support("PrecisionAverage", self.support, self.seed)

    @property
    def name(self) -> str:
        """``precision_average``."""
        return "precision_average"

    def needs(self) -> frozenset[str]:
        """A mixture, a covariate summary and the precision of each party."""
        return frozenset({"mixture", "covariates", "precision"})

    def solve(self, table: Table, locals: Sequence[Local]) -> Solution:
        """The weighted mean.

        Raises:
            CompatibilityError: machines have different numbers of experts.
            InvalidOption: the experts are not Gaussian.
        """
        if table.family != "gaussian":
            raise InvalidOption(
                f"PrecisionAverage of {table.family} experts",
                why="a Gram matrix is the precision of linear-Gaussian experts and of no others",
                mend="Use Reduction or AlignedAverage.",
            )
        found = in_order(locals, self.support, self.seed, self.robust)
        pairs = zip(found.locals, found.orders, strict=True)
        precisions = [reordered(precision_of(local), order) for local, order in pairs]
        gate = _gate(found.mixtures, precisions, found.mean())
        return Solution(Mixture(gate, _experts(found.mixtures, precisions, found.mean())), found.excluded)


def reordered(precision: Precision, order: Sequence[int]) -> Precision:
    """The statistics of the same fit with its experts in another order and the new last row of the gate at zero."""
    k, p = len(order), precision.expert_grams.shape[1]
    free = precision.gate_hessian.reshape(k - 1, p, k - 1, p)
    whole = np.zeros((k, p, k, p))
    whole[:-1, :, :-1] = free
    whole[-1, :, :-1] = -free.sum(axis=0)
    whole[:, :, -1] = -whole[:, :, :-1].sum(axis=2)
    moved = whole[list(order)][:, :, list(order)][:-1, :, :-1]
    return Precision(precision.expert_grams[list(order)], moved.reshape((k - 1) * p, (k - 1) * p))


def _experts(
    aligned: Sequence[Mixture[Experts]], precisions: Sequence[Precision], mean: Mixture[Experts]
) -> GaussianExperts:
    grams = np.stack([precision.expert_grams for precision in precisions])
    b = np.stack([mixture.experts.coefficients for mixture in aligned])
    variances = np.stack([mixture.experts.parameters()["variances"] for mixture in aligned])
    # differences from the plain mean: what no row determines stays there, and sums keep their digits
    centre = mean.experts.coefficients
    cross = np.einsum("mkab,mkqb->kaq", grams, b - centre)
    pairs = zip(grams.sum(axis=0), cross, strict=True)
    pooled = centre + np.stack([weighted_least_squares(gram, right) for gram, right in pairs])
    counts = grams[:, :, 0, 0]
    gaps = np.einsum("mkqa,mkab,mkqb->mkq", b - pooled, grams, b - pooled)
    return GaussianExperts(pooled, _spread(counts, variances, gaps))


def _spread(counts: Array, variances: Array, gaps: Array) -> Array:
    """Pooled variances ``[K, q]``; the plain mean for an expert that accounts for no rows."""
    total = counts.sum(axis=0)[:, None]
    pooled = (counts[:, :, None] * variances + np.maximum(gaps, 0.0)).sum(axis=0) / np.where(total > 0, total, 1.0)
    return np.asarray(np.where(total > 0, pooled, variances.mean(axis=0)))


def _gate(aligned: Sequence[Mixture[Experts]], precisions: Sequence[Precision], mean: Mixture[Experts]) -> SoftmaxGate:
    centre = softmax_gate(mean).coefficients
    if len(centre) == 1:
        return SoftmaxGate(centre)
    hessians = np.stack([precision.gate_hessian for precision in precisions])
    gaps = np.stack([(softmax_gate(mixture).coefficients - centre)[:-1].ravel() for mixture in aligned])
    step = weighted_least_squares(hessians.sum(axis=0), np.einsum("mab,mb->a", hessians, gaps)[:, None])
    moved = centre.copy()
    moved[:-1] += step.reshape(moved[:-1].shape)
    return SoftmaxGate(moved)
