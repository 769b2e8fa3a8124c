"""One machine's mixture as others see it, and what machines must agree on before their mixtures are composed.

``Table`` names what the rows mean; ``Local`` is a fitted mixture with what its owner declared beside it: how many rows
it saw, a summary of their covariates, the statistics of its optimum. Raw units throughout; no row of data.
"""

from __future__ import annotations

from dataclasses import dataclass

from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts, FamilyName
from quiltwork.models.mixture.mixture import Mixture


@dataclass(frozen=True)
class Table:
    """What all machines' rows have in common.

    Attributes:
        features: names of the covariates, in the order of the coefficients.
        units: their units, as many as features; ``""`` where unstated.
        target: name of the response, or of each of the q responses.
        classes: names of the classes in the order of their codes; None unless the experts are multinomial.
        family: the experts' distribution.
    """

    features: tuple[str, ...]
    units: tuple[str, ...]
    target: tuple[str, ...]
    classes: tuple[str, ...] | None
    family: FamilyName

    @property
    def n_features(self) -> int:
        """d, covariates without the intercept."""
        return len(self.features)

    @property
    def n_outputs(self) -> int:
        """q: classes of multinomial experts, else responses."""
        return len(self.target) if self.classes is None else len(self.classes)


@dataclass(frozen=True, eq=False)
class Precision:
    """How sharply a local likelihood determines its parameters, at its own optimum and in raw units.

    Attributes:
        expert_grams: float64 ``[K, p, p]``, sum_i tau_ik x~_i x~_i' with responsibilities tau and x~ = (1, x).
        gate_hessian: float64 ``[(K-1) p, (K-1) p]``, the gate's part of the negative log-likelihood's second
            derivative; classes 0..K-2 one after the other, the last row of the gate held at zero.
    """

    expert_grams: Array
    gate_hessian: Array


@dataclass(frozen=True, eq=False)
class Local:
    """One machine as a composition sees it.

    Attributes:
        party: whose it is.
        digest: of the contribution that it was read from.
        licence: the terms of that contribution.
        mixture: the local fit.
        rows: N_m, how many rows it was fitted to.
        covariates: a summary of its covariates, if declared.
        precision: statistics of the optimum, if declared.
        converged: whether the owner's fit said that it had converged.
    """

    party: str
    digest: str
    licence: str
    mixture: Mixture[Experts]
    rows: int
    covariates: CovariateSummary | None = None
    precision: Precision | None = None
    converged: bool = True
