"""Additive statistics: a machine joins a reduced model, or leaves it, without the others.

With a reduced mixture held as landmark, machine m's part of a reduction is a few sums over its own covariates,

    for each k:   sum_s D_ks x~_s x~_s'    sum_s x~_s T_ks'    sum_s q_ks    sum_s D_ks        (times N_m)

where D, T are what its hard plan brings to expert k (`majorise`) and q is the second moment. They add up over machines,
and from the totals follow the experts, K solves of p equations:

    b_k = (sum_m G_mk)^-1 sum_m c_mk       v_k = ( sum_m q_mk - 2 b_k . c_mk + b_k' G_mk b_k ) / sum_m n_mk.

The gate is put through the machines' logits u as in ``gate_reduction``, with the landmark's probabilities p as weights:
sums of (diag p - p p') (x) x~ x~' and of (diag p - p p') u (x) x~, and one solve. Neither trust nor the correction for
small samples enters, since both depend on who else is there.

A machine that joins costs one pass over its own experts. One that leaves is subtracted, or left out of a fresh sum over
those who stay: ``without`` does the latter, so that leaving equals never having joined to the last bit, for as long as
the landmarks stay. They were found with the machine, and do not forget it: to remove that trace too, reduce anew.

Linear experts only: other families' optima are no function of finitely many sums.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from quiltwork.errors import DuplicateParty, InvalidOption
from quiltwork.models.mixture.design import Array, augmented
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.experts.gaussian import GaussianExperts
from quiltwork.models.mixture.gate_reduction import correspondence, curved, log_masses
from quiltwork.models.mixture.gates import SoftmaxGate
from quiltwork.models.mixture.majorise import make_plan
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.pool import Pool, Units, at_home, softmax_gate
from quiltwork.models.mixture.regression import newton_step, softmax_curvature, softmax_hessian, weighted_least_squares


@dataclass(frozen=True, eq=False)
class Part:
    """One machine's sums, in the units of the landmarks.

    Attributes:
        grams: float64 ``[K, p, p]``.
        crosses: float64 ``[K, p, q]``.
        squares: float64 ``[K, q]``.
        masses: float64 ``[K]``, rows.
        edges: the gate's curvature between pairs of experts, float64 ``[K (K - 1) / 2, p, p]``; zeros from a machine
            with fewer than K experts.
        pulls: float64 ``[K, p]``; zeros likewise.
    """

    grams: Array
    crosses: Array
    squares: Array
    masses: Array
    edges: Array
    pulls: Array


@dataclass(frozen=True, eq=False)
class AdditiveReduction:
    """Landmarks and the parts of the machines so far; every change makes a new one.

    Attributes:
        landmark: K linear experts under a softmax gate, in ``units``.
        units: of everything here, fixed with the landmarks.
        parts: by party, in the order of names.
    """

    landmark: Mixture[GaussianExperts]
    units: Units
    parts: Mapping[str, Part]

    @classmethod
    def around(cls, reduced: Mixture[Experts], x: Array) -> AdditiveReduction:
        """Nobody yet, around the experts of a reduced mixture and in the standard units of covariates ``x``.

        Raises:
            InvalidOption: the experts are not Gaussian.
        """
        units = Units.of([reduced], x)
        gate, experts = units.to(reduced).gate, units.to(reduced).experts
        if isinstance(experts, GaussianExperts):
            return cls(Mixture(gate, experts), units, {})
        raise InvalidOption(
            f"additive statistics of {experts.family} experts",
            why="only linear experts are determined by sums",
            mend="Reduce anew when a machine joins or leaves.",
        )

    def joined_by(self, party: str, mixture: Mixture[Experts], support: Array, rows: float) -> AdditiveReduction:
        """With one more machine, by one pass over its experts.

        Args:
            party: its name.
            mixture: its fit, linear experts under a softmax gate.
            support: covariates from its summary, float64 ``[S, d]``, raw units.
            rows: N_m.

        Raises:
            DuplicateParty: it is there already.
        """
        if party in self.parts:
            raise DuplicateParty(f"party '{party}'", why="it has joined before", mend="Take it out first.")
        pool = at_home([mixture], np.array([rows]), [support], self.units)
        part = Part(**self._expert_sums(pool, rows), **self._gate_sums(pool, rows))
        return replace(self, parts=dict(sorted({**self.parts, party: part}.items())))

    def without(self, party: str) -> AdditiveReduction:
        """As if the machine had never joined.

        Raises:
            InvalidOption: it is not there.
        """
        if party not in self.parts:
            raise InvalidOption(f"party '{party}'", why="it has not joined", mend="Name one that has.")
        return replace(self, parts={name: part for name, part in self.parts.items() if name != party})

    def mixture(self) -> Mixture[GaussianExperts]:
        """The reduced mixture of all machines so far, raw units; what received nothing stays at its landmark.

        Raises:
            InvalidOption: nobody has joined.
        """
        if not self.parts:
            raise InvalidOption("a reduction of no machine", why="nobody has joined", mend="Let a machine join first.")
        experts = self._experts()
        raw = GaussianExperts(self.units.raw_coefficients(experts.coefficients), experts.variances)
        gate = self.units.back(Mixture(SoftmaxGate(self._gate()), experts)).gate
        return Mixture(gate, raw)

    def _expert_sums(self, pool: Pool, rows: float) -> dict[str, Array]:
        plan = make_plan(pool, self.landmark.experts)
        masses, moments = plan.masses * rows, plan.moments * rows
        wide, outputs = augmented(pool.x), len(moments) // 2
        return {
            "grams": np.stack([(wide * mass[:, None]).T @ wide for mass in masses]),
            "crosses": np.stack([wide.T @ moments[:outputs, k].T for k in range(len(masses))]),
            "squares": moments[outputs:].sum(axis=2).T,
            "masses": masses.sum(axis=1),
        }

    def _gate_sums(self, pool: Pool, rows: float) -> dict[str, Array]:
        (machine,), (owners,) = pool.machines, correspondence(pool, self.landmark.experts)
        k, wide = self.landmark.n_experts, augmented(pool.x)
        if owners is None:
            p = wide.shape[1]
            return {"edges": np.zeros((k * (k - 1) // 2, p, p)), "pulls": np.zeros((k, p))}
        mass = pool.totals[0] * rows
        prob = np.exp(self.landmark.log_gate(pool.x))
        edges = softmax_curvature(prob.T.copy(), mass)
        pulls = (mass[:, None] * curved(prob, log_masses(machine, pool, owners, k))).T @ wide
        return {"edges": np.einsum("es,sa,sb->eab", edges, wide, wide, optimize=True), "pulls": pulls}

    def _experts(self) -> GaussianExperts:
        coefficients, variances = self.landmark.experts.coefficients.copy(), self.landmark.experts.variances.copy()
        masses = self._total("masses")
        grams, crosses, squares = self._total("grams"), self._total("crosses"), self._total("squares")
        for k in np.flatnonzero(masses > 0):
            b = weighted_least_squares(grams[k], crosses[k])
            coefficients[k] = b
            variances[k] = (squares[k] + ((b @ grams[k] - 2 * crosses[k].T) * b).sum(axis=1)) / masses[k]
        return GaussianExperts(coefficients, variances)

    def _gate(self) -> Array:
        edges, pulls = self._total("edges"), self._total("pulls")
        if not np.abs(edges).sum() > 0:
            return softmax_gate(self.landmark).coefficients
        hessian = softmax_hessian(edges, len(pulls), np.zeros(pulls.shape[1]))
        return newton_step(pulls.ravel(), hessian).reshape(pulls.shape)

    def _total(self, name: str) -> Array:
        """The machines' sum of one statistic, in the order of their names."""
        return np.asarray(np.sum([getattr(part, name) for part in self.parts.values()], axis=0))
