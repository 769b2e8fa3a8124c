"""Programs that can only be run: probabilities of outcomes, and their gradients, from samples.

For a program with too many states to enumerate, draw tuples s^1, ..., s^M from prod_i p_i, run it on them, and take
shares among the tuples that put out y for the posterior:

    P(y)            ~  share of tuples with f(s^m) = y
    P(s_i = k | y)  ~  share of k at place i among those
    d(log P(y)) / d(logit_i(k))  ~  P(s_i = k | y) - p_i(k)

This is consistent, and biased in the order of one over the number of hits, as every ratio is. It differs from the
score function with a reward of 0 or 1 (REINFORCE) in two things that cut the error: each row is divided by its own
P(y), so that rows with improbable labels count, and the tuples are Latin hypercube samples (McKay, Beckman and
Conover, Technometrics 1979), in which every marginal is right to 2/M. Where the label is improbable and no sample
hits it, nothing is learned from the row: M should be several times 1 / P(y) at the start, which is what limits all
sampling here. Where a fold is possible at all, it is better.

>>> product = Sampled(lambda s: s.prod(1) % 3, (4, 4), (0, 1, 2), samples=400)
>>> logs = [torch.full((1, 4), 0.25, dtype=torch.float64).log()] * 2
>>> product.log_outcomes(logs).exp().mul(16).round().tolist()
[[12.0, 2.0, 2.0]]
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from quiltwork.errors import InvalidOption
from quiltwork.session.split.programs import Symbols, labels_of

Runs: TypeAlias = Callable[[Symbols], NDArray[np.int64]]
"""Symbols int64 ``[m, n]`` to numbers of outcomes int64 ``[m]``; the same for the same symbols."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """A program that is run on samples.

    Attributes:
        runs: the program, on many tuples at once.
        sizes: number of symbols of each operand.
        outcomes: what it can put out, by number.
        samples: tuples M drawn for each row.

    Raises:
        InvalidOption: no operands, no outcomes or no samples.
    """

    runs: Runs
    sizes: tuple[int, ...]
    outcomes: tuple[Hashable, ...]
    samples: int = 256

    def __post_init__(self) -> None:
        if min((*self.sizes, len(self.sizes), len(self.outcomes), self.samples)) < 1:
            raise InvalidOption(
                f"sizes {self.sizes}, {len(self.outcomes)} outcomes, samples={self.samples}",
                why="a sampled program has operands, outcomes and samples",
                mend="Give at least one of each.",
            )

    def labels(self, values: Iterable[Hashable]) -> Tensor:
        """Numbers of outcomes, int64 ``[m]``; as `Fold.labels`."""
        return labels_of(self.outcomes, values)

    def log_outcomes(self, logs: Sequence[Tensor], seed: int = 0) -> Tensor:
        """Estimated log P(y), float64 ``[b, outcomes]``, whose gradient is the estimate above.

        An outcome that no tuple met has the probability of half a hit, and no gradient.

        Raises:
            InvalidOption: the program answers something else than numbers of outcomes.
        """
        tuples = self._drawn([log.detach().exp() for log in logs], np.random.default_rng(seed))
        met = self._met(tuples)
        counts = torch.zeros(len(met), len(self.outcomes), dtype=torch.float64)
        counts = counts.scatter_add(1, met, torch.ones_like(met, dtype=torch.float64))
        value: Tensor = (counts.clamp_min(0.5) / self.samples).log()
        for place, log in enumerate(logs):
            # the log-derivative, weighted by the posterior: its value cancels, its gradient stays
            slope = torch.einsum("bky,bk->by", self._posterior(tuples[:, :, place], met, counts, place), log)
            value = value + (slope - slope.detach())
        return value

    def _drawn(self, probabilities: Sequence[Tensor], draw: np.random.Generator) -> Symbols:
        """Latin hypercube samples of each row: int64 ``[b, M, n]``."""
        rows, m = len(probabilities[0]), self.samples
        columns = []
        for p in probabilities:
            strata = draw.permuted(np.tile(np.arange(m), (rows, 1)), axis=1)
            levels = torch.from_numpy((strata + draw.random((rows, m))) / m)
            edges = p.cumsum(1)[:, :-1].contiguous()
            columns.append(torch.searchsorted(edges, levels, right=True).numpy())
        return np.stack(columns, axis=2)

    def _met(self, tuples: Symbols) -> Tensor:
        """The outcome of each tuple: int64 ``[b, M]``."""
        rows, m, n = tuples.shape
        found = np.asarray(self.runs(tuples.reshape(-1, n)))
        count = len(self.outcomes)
        if found.shape != (rows * m,) or found.dtype.kind != "i" or found.min() < 0 or found.max() >= count:
            raise InvalidOption(
                "the sampled program",
                why=f"it answers {found.dtype} {found.shape}, and one number in 0 ... {count - 1} a tuple is due",
                mend="Return int64 [m] for symbols int64 [m, n].",
            )
        return torch.from_numpy(found.astype(np.int64)).reshape(rows, m)

    def _posterior(self, symbols: Symbols, met: Tensor, counts: Tensor, place: int) -> Tensor:
        """P(s_i = k | y) by shares, float64 ``[b, K, outcomes]``; 0 for an outcome that was not met."""
        size, outcomes = self.sizes[place], len(self.outcomes)
        cell = torch.from_numpy(symbols) * outcomes + met
        joint = torch.zeros(len(met), size * outcomes, dtype=torch.float64)
        joint = joint.scatter_add(1, cell, torch.ones_like(cell, dtype=torch.float64))
        return joint.reshape(-1, size, outcomes) / counts.clamp_min(1)[:, None]
