"""How many experts: fits with 1, 2, ... experts compared by the Bayesian information criterion (Schwarz 1978).

    BIC(K) = -2 log L + (free parameters) log(sum of weights)             smaller is better

Free parameters are those that the density identifies: (K - 1) p of the gate, K q p coefficients of Gaussian and Poisson
experts with K q variances of the former, K (C - 1) p of multinomial experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from quiltwork.models.mixture.fit import Fit
from quiltwork.models.mixture.mixture import Mixture


@dataclass(frozen=True)
class Candidate:
    """One row of the table that K was chosen from.

    Attributes:
        n_experts: K.
        log_likelihood: in nats, without penalties.
        n_parameters: free ones.
        bic: smaller is better.
        converged: whether its EM did.
    """

    n_experts: int
    log_likelihood: float
    n_parameters: int
    bic: float
    converged: bool


def free_parameters(mixture: Mixture[Any]) -> int:
    """Numbers that the density identifies."""
    experts = mixture.experts
    k, q, p = (int(n) for n in experts.coefficients.shape)
    gate = (k - 1) * p
    if experts.family == "multinomial":
        return gate + k * (q - 1) * p
    return gate + k * q * p + (k * q if experts.family == "gaussian" else 0)


def bic(log_likelihood: float, mixture: Mixture[Any], rows: float) -> float:
    """The criterion for ``rows`` rows, or their sum of weights."""
    return -2.0 * log_likelihood + free_parameters(mixture) * math.log(rows)


def by_bic(fit: Callable[[int], Fit], most: int, rows: float) -> tuple[Fit, tuple[Candidate, ...]]:
    """Fit 1 to ``most`` experts and keep the fit of least BIC; of equals the one with fewest experts."""
    fits = [fit(k) for k in range(1, most + 1)]
    table = tuple(
        Candidate(
            one.mixture.n_experts,
            one.log_likelihood,
            free_parameters(one.mixture),
            bic(one.log_likelihood, one.mixture, rows),
            one.converged,
        )
        for one in fits
    )
    best = min(range(most), key=lambda i: table[i].bic)
    return fits[best], table
