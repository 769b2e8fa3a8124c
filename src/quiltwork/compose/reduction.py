"""Reduction: the machines' pooled mixture of experts, reduced to one of K experts by optimal transport.

    f(y | x) = sum_m lambda_m(x) f_m(y | x)   ->   argmin_h  E_x  sum_l pi_l(x) min_k KL(phi_l(. | x) || h_k(. | x))

(Chamroukhi and Pham, arXiv 2312.09877; how it is solved: `quiltwork.models.mixture.reduction`.) Each owner fits a
mixture and sends its parameters with a summary of its covariates; here the expectation over x is taken over rows drawn
from the summaries, so that no row of data is needed, nor any response.

Unlike an average over aligned experts, machines may have different numbers of experts, and an expert may resemble one
reduced expert here and another there. Bad fits are left out first (`quiltwork.compose.screening`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from quiltwork.compose.home import home_rows
from quiltwork.compose.screening import screen, strangers
from quiltwork.compose.support import precision_of, require_support, rows_of, summary_of
from quiltwork.compose.tables import Local, Solution, Table
from quiltwork.errors import InvalidOption
from quiltwork.evidence.covariates import CovariateSummary
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.gates import ConstantWeights, MachineWeights
from quiltwork.models.mixture.machine_weights import EvidenceWeights
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.pool import Pool, at_home, everywhere
from quiltwork.models.mixture.reduction import (
    GateName,
    Reduced,
    Steps,
    pooled_by_precision,
    reduced_experts,
    with_gate,
)

SCREENING_ROWS = 800
"""Support rows on which fits are screened."""

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Reduction:
    """One mixture of K experts from the machines' local fits.

    Attributes:
        n_experts: K; None for the one of 1..max K_m with the shortest description, see `description_length`.
        support: how many covariates to draw from the machines' summaries, or public rows of covariates to use instead.
        gate: ``"logit"`` averages the logits of the machines with at least K experts; ``"projection"`` is the gate
            nearest to the masses that the plan brings to each expert; ``"auto"`` takes logits unless responses drawn
            from the machines' own mixtures are clearly likelier under the projected gate.
        weights: of machines at x, ``"evidence"`` for the posterior given x, under which no machine speaks where it has
            no data; ``"rows"`` for N_m / N everywhere, better by a hair where all machines see the same covariates,
            and far worse where they do not.
        experts: ``"transport"`` for the experts nearest to the pooled ones, ``"precision"`` to pool Gaussian experts
            by the Gram matrices that machines declare, once the transport has said which is which.
        robust: leave bad fits out.
        starts: how many starts are tried.
        max_iterations: steps at most.
        tolerance: stop when a step gains no more, nats a row.
        seed: of the drawn covariates.
    """

    n_experts: int | None = None
    support: int | Rows = 20000
    gate: GateName = "auto"
    weights: Literal["rows", "evidence"] = "evidence"
    experts: Literal["transport", "precision"] = "transport"
    robust: bool = True
    starts: int = 4
    max_iterations: int = 200
    tolerance: float = 1e-9
    seed: int = 0

    def __post_init__(self) -> None:
        require_support("Reduction", self.support if isinstance(self.support, int) else len(self.support), self.seed)
        _require_one_of("gate", self.gate, "auto", "logit", "projection")
        _require_one_of("weights", self.weights, "rows", "evidence")
        _require_one_of("experts", self.experts, "transport", "precision")
        for name, value in (("n_experts", self.n_experts), ("starts", self.starts), ("steps", self.max_iterations)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise InvalidOption(f"{name}={value!r}", why="it is a whole number from 1 on", mend="Choose one.")
        if not 0 <= self.tolerance < np.inf:
            raise InvalidOption(f"tolerance={self.tolerance}", why="it is a gain in nats", mend="Choose 0 or more.")

    @property
    def name(self) -> str:
        """``reduction``."""
        return "reduction"

    def needs(self) -> frozenset[str]:
        """A mixture of each party; covariate summaries and precision statistics where an option uses them."""
        summaries = isinstance(self.support, int) or self.weights == "evidence"
        found = {"mixture", *(["covariates"] if summaries else []), *(["precision"] if self._pools else [])}
        return frozenset(found)

    def solve(self, table: Table, locals: Sequence[Local]) -> Solution:
        """The reduced mixture, who was left out and why, the objective after each step.

        Raises:
            InvalidOption: K is larger than the number of pooled experts, public rows do not fit the table, experts
                are to be pooled by precision that are not Gaussian, or screening leaves no machine.
            MissingPart: a machine did not declare what ``needs`` says.
        """
        excluded, kept = self._screened(table, locals)
        path = {k: self._reduced(kept, k) for k in self._candidates(kept)}
        chosen = min(path, key=lambda k: description_length(path[k][0], float(rows_of(kept).sum())))
        reduced, strange = path[chosen]
        notes = [] if self.n_experts is not None else [_shown(chosen, path)]
        return Solution(
            reduced.mixture, {**excluded, **strange}, reduced.path, (*notes, *self._remarks(chosen, reduced))
        )

    def path(self, table: Table, locals: Sequence[Local]) -> dict[int, Mixture[Experts]]:
        """The reduction to each K that is considered: candidates for `choose_n_experts`."""
        _, kept = self._screened(table, locals)
        return {k: self._reduced(kept, k)[0].mixture for k in self._candidates(kept)}

    @property
    def _pools(self) -> bool:
        return self.experts == "precision"

    def _candidates(self, locals_: Sequence[Local]) -> Sequence[int]:
        most = max(local.mixture.n_experts for local in locals_)
        return range(1, most + 1) if self.n_experts is None else [self.n_experts]

    def _screened(self, table: Table, locals_: Sequence[Local]) -> tuple[Mapping[str, str], Sequence[Local]]:
        """Who is left out, and who is not."""
        if self._pools and table.family != "gaussian":
            raise InvalidOption(
                f"experts='precision' for {table.family} experts",
                why="Gram matrices determine linear experts alone",
                mend="Use experts='transport'.",
            )
        if not self.robust:
            return {}, locals_
        if isinstance(self.support, int):
            x = np.concatenate(home_rows(locals_, SCREENING_ROWS, self.seed, fewest=4))
        else:
            x = self._public(locals_)[:: -(-len(self.support) // SCREENING_ROWS)]
        excluded = screen(locals_, x, _posterior(locals_))
        kept = [local for local in locals_ if local.party not in excluded]
        if not kept:
            raise InvalidOption(
                "the machines",
                why="screening leaves none of them: " + "; ".join(f"{name}: {why}" for name, why in excluded.items()),
                mend="Ask their parties for other fits.",
            )
        return excluded, kept

    def _reduced(self, locals_: Sequence[Local], k: int) -> tuple[Reduced, Mapping[str, str]]:
        """The reduction to K experts, and those left out since they have fewer and stand far from it.

        A fit with too few experts blends what others keep apart. Machines with at least K are reduced first, if they
        hold half of the rows; of the rest those join that are near to what came out.
        """
        able = [local for local in locals_ if local.mixture.n_experts >= k]
        if not self.robust or len(able) == len(locals_) or rows_of(able).sum() < 0.5 * rows_of(locals_).sum():
            return self._of(locals_, k), {}
        core = self._of(able, k)
        strange = strangers(able, locals_, core.mixture, self._compared(locals_))
        rest = [local for local in locals_ if local.party not in strange]
        return (core if len(rest) == len(able) else self._of(rest, k)), strange

    def _of(self, locals_: Sequence[Local], k: int) -> Reduced:
        pool = self._pool(locals_)
        found = reduced_experts(pool, k, Steps(self.starts, self.max_iterations, self.tolerance))
        if not self._pools:
            return with_gate(pool, found, found.experts, self.gate)
        grams = [precision_of(local).expert_grams for local in locals_]
        return with_gate(pool, found, pooled_by_precision(pool, found.experts, grams), self.gate)

    def _pool(self, locals_: Sequence[Local]) -> Pool:
        mixtures, rows = [local.mixture for local in locals_], rows_of(locals_)
        if not isinstance(self.support, int):
            summaries = self.weights == "evidence"
            weights = EvidenceWeights(_summaries(locals_), rows) if summaries else ConstantWeights(rows)
            return everywhere(mixtures, weights, self._public(locals_), rows)
        drawn = home_rows(locals_, self.support, self.seed)
        if self.weights == "evidence":
            return at_home(mixtures, rows, drawn)
        return everywhere(mixtures, ConstantWeights(rows), np.concatenate(drawn), rows)

    def _compared(self, locals_: Sequence[Local]) -> list[Array]:
        """A few rows of each machine."""
        if isinstance(self.support, int):
            return home_rows(locals_, SCREENING_ROWS, self.seed)
        return [self._public(locals_)[:: -(-len(self.support) // SCREENING_ROWS)]] * len(locals_)

    def _public(self, locals_: Sequence[Local]) -> Array:
        public, wanted = np.array(self.support, dtype=np.float64), locals_[0].mixture.n_features
        if public.ndim == 2 and public.shape[1] == wanted and np.isfinite(public).all():
            return public
        raise InvalidOption(
            f"public support of shape {public.shape}",
            why=f"it is no table of finite numbers with {wanted} columns",
            mend="Give one row of covariates each, in the table's features and units.",
        )

    def _remarks(self, wanted: int, reduced: Reduced) -> list[str]:
        got = reduced.mixture.n_experts
        found = []
        if got < wanted:
            found.append(f"{got} experts and not {wanted}: the others received no weight.")
        if reduced.gate != "logit" and self.gate != "projection":
            found.append(f"The gate is projected: the machines share no {got} experts whose logits could be averaged.")
        if not reduced.settled:
            found.append(f"The objective still moved after {self.max_iterations} steps.")
        return found


def description_length(reduced: Reduced, rows: float) -> float:
    """rows x objective + log(rows) / 2 x free parameters: what a reduction loses, and what it costs to write down.

    N times the objective bounds the expected log-likelihood that N rows lose under the reduced mixture instead of the
    pooled one, so this is the Bayesian information criterion with the pooled mixture in place of the data.
    """
    return rows * reduced.path[-1] + 0.5 * math.log(rows) * free_parameters(reduced.mixture)


def free_parameters(mixture: Mixture[Experts]) -> int:
    """Numbers that the density depends on: one class of a softmax is free of choice."""
    k, outputs, p = mixture.experts.coefficients.shape
    own = outputs - 1 if mixture.experts.family == "multinomial" else outputs
    variances = k * outputs if mixture.experts.family == "gaussian" else 0
    return int(k * own * p + variances + (k - 1) * p)


def choose_n_experts(
    candidates: Mapping[int, Mixture[Experts]], log_likelihoods: Sequence[Mapping[int, float]], rows: float
) -> int:
    """K by the Bayesian information criterion from one round of local log-likelihoods.

    Args:
        candidates: reduced mixtures by K, as `Reduction.path` gives them.
        log_likelihoods: of each machine's rows under each candidate, in nats: all that the owners send back.
        rows: N, over these machines.

    Raises:
        InvalidOption: there is no candidate, or a machine's answer misses one.
    """
    if not candidates or any(answer.keys() < candidates.keys() for answer in log_likelihoods):
        raise InvalidOption(
            "log_likelihoods",
            why="each machine gives one number for each candidate, and there is at least one candidate",
            mend="Ask the owners about all of them.",
        )

    def criterion(k: int) -> float:
        return float(math.log(rows) * free_parameters(candidates[k]) - 2 * sum(answer[k] for answer in log_likelihoods))

    return min(sorted(candidates), key=criterion)


def _shown(chosen: int, path: Mapping[int, tuple[Reduced, Mapping[str, str]]]) -> str:
    steps = ", ".join(f"{k}: {reduced.path[-1]:.4g}" for k, (reduced, _) in path.items())
    return f"{chosen} experts have the shortest description; objective in nats a row by experts: {steps}."


def _posterior(locals_: Sequence[Local]) -> MachineWeights | None:
    """All machines alike before their covariates are seen; None unless all have declared these."""
    if any(local.covariates is None for local in locals_):
        return None
    return EvidenceWeights(_summaries(locals_), np.ones(len(locals_)))


def _summaries(locals_: Sequence[Local]) -> tuple[CovariateSummary, ...]:
    return tuple(summary_of(local) for local in locals_)


def _require_one_of(name: str, value: str, *allowed: str) -> None:
    if value not in allowed:
        mend = f"Use {' or '.join(repr(one) for one in allowed)}."
        raise InvalidOption(f"{name}={value!r}", why="there is no such choice", mend=mend)
