"""Weights per input from evidence: whose component to trust at x, as a module that exports with the model.

With e the declared embedding (`embedder`) and p_m the density that party m released (`evidence.covariates`: a mixture
of J_m Gaussians, shrunk),

    log p_m(x) = logsumexp_j [ log(n_mj / n_m) + log N(e(x); m_mj, (1 - a) S_mj + a diag(v)) ]
    r_m  ~  prior_m p_m(x)^(1 / T)          r_0  ~  exp(f / T)          sum of r = 1
    w_m  =  r_m + r_0 prior_m

where v are the variances of all parties' rows together, the same for all, so that a column that is constant for one
party does not make a spike. r_0 is the hypothesis "none of us", of constant density: far from everybody the members
count by their prior. Its level is set against what the parties know,

    f = min_m E_m - floor        E_m = entropy-like: the mean of log p_m over its own rows, each group taken apart

so a floor of 30 says that an input is nobody's when it is 30 nats less likely than a typical row of the party whose
rows lie widest. (A Gaussian party's own rows scatter by sqrt(d / 2) nats about E_m.)

float64 inside, so that the weights equal those of `evidence` to rounding; float32 out. Where parties share p(x) and
differ in labels or in p(y | x) the evidence of inputs cannot tell them apart: the weights are then the prior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quiltwork.errors import InvalidOption
from quiltwork.evidence.covariates import CovariateSummary, deviations, whitening
from quiltwork.evidence.gaussian import GaussianSummary

Array = NDArray[np.float64]


class EvidenceWeigher(nn.Module):
    """The posterior over M parties per input. Buffers only; nothing trains. Build it with `from_summaries`.

    Attributes:
        parties: their names, in the order of the weights.
    """

    means: Tensor
    whiteners: Tensor
    constants: Tensor
    log_prior: Tensor
    nobody: Tensor

    def __init__(
        self,
        embedder: nn.Module,
        parties: tuple[str, ...],
        groups: tuple[int, ...],
        buffers: Mapping[str, Array],
        temperature: float,
    ) -> None:
        super().__init__()
        self.embedder = embedder
        self.parties = parties
        self.groups = groups
        self.temperature = temperature
        for name in ("means", "whiteners", "constants", "log_prior", "nobody"):
            self.register_buffer(name, torch.tensor(buffers[name], dtype=torch.float64))

    @classmethod
    def from_summaries(
        cls,
        embedder: nn.Module,
        summaries: Mapping[str, CovariateSummary],
        *,
        prior: Mapping[str, float] | None = None,
        floor: float | None = None,
        temperature: float = 1.0,
        shrinkage: float = 1e-3,
    ) -> EvidenceWeigher:
        """The weigher of the parties in ``summaries``, in their order.

        Args:
            embedder: raw inputs ``[n, *shape]`` to ``[n, d]``, the space of the summaries.
            summaries: one density a party.
            prior: a positive weight for each party, in any scale; None weighs all alike.
            floor: nats below the widest party's typical row at which an input is nobody's; None: never.
            temperature: T; above 1 the posterior is less sure.
            shrinkage: a, in [1e-6, 1].

        Raises:
            InvalidOption: there is no summary, they differ in dimensions, or an option is out of its domain.
        """
        _check(summaries, floor, temperature)
        parts = [part for summary in summaries.values() for part in summary.parts]
        scale = deviations(reduce(GaussianSummary.merge, parts))
        buffers = _densities(summaries, scale, shrinkage)
        buffers["log_prior"] = _log_prior(tuple(summaries), prior)
        typical = min(_typical(summary, scale, shrinkage) for summary in summaries.values())
        buffers["nobody"] = np.array(-math.inf if floor is None else typical - floor)
        groups = tuple(len(summary.parts) for summary in summaries.values())
        return cls(embedder, tuple(summaries), groups, buffers, temperature)

    def log_densities(self, x: Tensor) -> Tensor:
        """``log p_m(x)``, float64 ``[n, M]``, for raw inputs ``[n, *shape]``."""
        whitened = torch.matmul((self.embedder(x).unsqueeze(0) - self.means.unsqueeze(1)), self.whiteners)
        each = (self.constants.unsqueeze(1) - 0.5 * (whitened * whitened).sum(dim=2)).transpose(0, 1)
        return torch.stack([part.logsumexp(dim=1) for part in each.split(self.groups, dim=1)], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """Weights float32 ``[n, M]`` of raw inputs ``[n, *shape]``; each row sums to 1."""
        return self.float64_weights(x).float()

    def float64_weights(self, x: Tensor) -> Tensor:
        """The weights before they are rounded to float32."""
        known = self.log_densities(x) / self.temperature + self.log_prior
        nobody = (self.nobody / self.temperature).expand(known.shape[0], 1)
        shares = torch.softmax(torch.cat([known, nobody], dim=1), dim=1)
        members = len(self.parties)
        return shares[:, :members] + shares[:, members:] * self.log_prior.exp()


def _densities(summaries: Mapping[str, CovariateSummary], scale: Array, shrinkage: float) -> dict[str, Array]:
    """Means, whiteners and constants of all groups of all parties, stacked: ``[G, d]``, ``[G, d, d]``, ``[G]``."""
    means, whiteners, constants = [], [], []
    for summary in summaries.values():
        for part in summary.parts:
            whitener, volume = whitening(part, scale, shrinkage)
            means.append(part.mean)
            whiteners.append(whitener)
            constants.append(math.log(part.count / summary.count) - volume)
    return {"means": np.stack(means), "whiteners": np.stack(whiteners), "constants": np.array(constants)}


def _typical(summary: CovariateSummary, scale: Array, shrinkage: float) -> float:
    """The mean log-density of the summarised rows, were its groups far apart."""
    total = 0.0
    for part in summary.parts:
        whitener, volume = whitening(part, scale, shrinkage)
        spread = float(np.einsum("de,df,fe->", whitener, part.covariance, whitener))
        share = part.count / summary.count
        total += share * (math.log(share) - volume - 0.5 * spread)
    return total


def _log_prior(parties: tuple[str, ...], prior: Mapping[str, float] | None) -> Array:
    weights = np.ones(len(parties)) if prior is None else np.array([prior.get(name, math.nan) for name in parties])
    if not (np.isfinite(weights) & (weights > 0)).all() or (prior is not None and set(prior) != set(parties)):
        raise InvalidOption(
            "prior", why="it is not one positive number for each party", mend=f"Give {', '.join(parties)}."
        )
    return np.asarray(np.log(weights / weights.sum()), dtype=np.float64)


def _check(summaries: Mapping[str, CovariateSummary], floor: float | None, temperature: float) -> None:
    if not summaries:
        raise InvalidOption("summaries", why="there are none", mend="Give a party's summary of its inputs.")
    sizes = {summary.n_features for summary in summaries.values()}
    if len(sizes) > 1:
        why = f"they have {' and '.join(map(str, sorted(sizes)))} dimensions"
        raise InvalidOption("summaries", why=why, mend="Summarise all inputs in one embedding.")
    if floor is not None and not math.isfinite(floor):
        raise InvalidOption(f"floor={floor}", why="it is a number of nats", mend="Choose a finite one, or None.")
    if not 0 < temperature < math.inf:
        raise InvalidOption(
            f"temperature={temperature}", why="it divides the evidence", mend="Choose a positive number."
        )
