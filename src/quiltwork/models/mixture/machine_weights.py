"""How much each machine counts at x, from what the machines declared about their covariates.

    lambda_m(x) proportional to N_m p_m(x)

the posterior over machines given a row's covariates. Where machines saw different covariates, constant weights let each
speak about places where it has no data; these do not.

>>> low, high = (CovariateSummary.from_rows(np.array([[0.0], [2.0]]) + at, minimum_rows=2) for at in (0.0, 6.0))
>>> np.exp(EvidenceWeights((low, high)).log_weights(np.array([[1.0], [4.0], [7.0]]))).round(3)
array([[1. , 0. ],
       [0.5, 0.5],
       [0. , 1. ]])
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax

from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.models.mixture.design import Array


@dataclass(frozen=True, eq=False)
class EvidenceWeights:
    """The posterior over machines; satisfies ``gates.MachineWeights``.

    Attributes:
        summaries: one a machine, over the same covariates.
        rows: float64 ``[M]``, N_m; None for the summaries' own counts.
    """

    summaries: tuple[CovariateSummary, ...]
    rows: Array | None = None

    def log_weights(self, x: Array) -> Array:
        """float64 ``[n, M]``; rows are normalised."""
        counts = np.array([summary.count for summary in self.summaries]) if self.rows is None else self.rows
        scale = pooled_scale(self.summaries)
        densities = np.stack([summary.log_density(x, scale=scale) for summary in self.summaries], axis=1)
        return np.asarray(log_softmax(densities + np.log(counts), axis=1), dtype=np.float64)


def pooled_scale(summaries: tuple[CovariateSummary, ...]) -> Array:
    """Standard deviations of all machines' rows together, positive: float64 ``[d]``.

    One scale for all, since in its own a column that is constant for one machine would be a spike.
    """
    parts = [part for summary in summaries for part in summary.parts]
    shares = np.array([part.count for part in parts], dtype=np.float64)
    shares /= shares.sum()
    means = np.stack([part.mean for part in parts])
    centre = shares @ means
    square = shares @ (np.stack([part.covariance.diagonal() for part in parts]) + (means - centre) ** 2)
    size = np.abs(centre)
    return np.asarray(np.maximum(np.sqrt(square), 1e-6 * np.where(size > 0, size, 1.0)))
