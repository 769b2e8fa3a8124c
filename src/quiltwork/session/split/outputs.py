"""Outputs of isolated components, composed: by a product, a mean, a median, or weights fitted on held-out rows.

For log-probabilities l_i [b, k] of n parties and the log-prior q:

    product    log p = sum_i l_i - (n - 1) q - normaliser     Bayes where fragments are independent given the label
    mean       log p = log 1/n sum_i exp l_i
    median     log p = median_i l_i - normaliser              one arbitrary party of many moves it little
    stacked    log p = log_softmax(sum_i l_i W_i + c)         W, c fitted on held-out outputs

The sum of log-posteriors counts the prior n times, hence the correction. A floor under each l_i bounds what one party
can take away from a class. For numbers: the mean, the median, and least squares.

>>> one, two = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.5, 0.5]]).log()
>>> Product(torch.tensor([0.5, 0.5])).compose({"ash": one, "birch": two}).exp()
tensor([[0.8000, 0.2000]])
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from quiltwork.errors import InvalidOption


class Composition(Protocol):
    """How outputs of several parties become one."""

    def compose(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Log-probabilities ``[b, k]`` or numbers ``[b, 1]`` from those of each party that is present."""
        ...

    def without(self, party: str) -> Composition:
        """The composition as if a party had never been there."""
        ...


@dataclass(frozen=True, eq=False)
class Product:
    """Product of experts with the prior counted once.

    Attributes:
        prior: class probabilities ``[k]``.
        floor: least log-probability that one party may give; None for no floor.
    """

    prior: Tensor
    floor: float | None = None

    def __post_init__(self) -> None:
        if not math.isclose(float(self.prior.sum()), 1, abs_tol=1e-4) or bool((self.prior <= 0).any()):
            raise InvalidOption("prior", why="it is not positive with sum one", mend="Give class probabilities.")
        if self.floor is not None and not -math.inf < self.floor < 0:
            raise InvalidOption(f"floor={self.floor}", why="it is a log-probability", mend="Choose about -3.")

    def compose(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The sum, less the prior counted too often."""
        floored = _stacked(outputs).clamp_min(-math.inf if self.floor is None else self.floor)
        # a class that one party excludes and none allows is excluded; where all are, nothing is known but the prior
        total = floored.sum(0) - (len(outputs) - 1) * self.prior.log()
        hopeless = (total == -math.inf).all(1, keepdim=True)
        return torch.log_softmax(torch.where(hopeless, self.prior.log(), total), 1)

    def without(self, party: str) -> Product:  # noqa: ARG002 - nothing of a party is in it
        """The same."""
        return self


@dataclass(frozen=True)
class Mean:
    """Mean of probabilities, or of numbers.

    Attributes:
        classes: whether outputs are log-probabilities.
    """

    classes: bool = True

    def compose(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The mean."""
        stacked = _stacked(outputs)
        return torch.logsumexp(stacked, 0) - math.log(len(stacked)) if self.classes else stacked.mean(0)

    def without(self, party: str) -> Mean:  # noqa: ARG002 - nothing of a party is in it
        """The same."""
        return self


@dataclass(frozen=True)
class Median:
    """Median of log-probabilities by class, or of numbers; of two middle ones the mean.

    Attributes:
        classes: whether outputs are log-probabilities.
        floor: least log-probability, so that certainty is finite.
    """

    classes: bool = True
    floor: float = -50.0

    def compose(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The median; a party whose output is not a number counts as the lowest."""
        stacked = torch.nan_to_num(_stacked(outputs), nan=-math.inf)
        if self.classes:
            stacked = stacked.clamp_min(self.floor)
        ordered, n = stacked.sort(0).values, len(stacked)
        middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
        return torch.log_softmax(middle, 1) if self.classes else middle

    def without(self, party: str) -> Median:  # noqa: ARG002 - nothing of a party is in it
        """The same."""
        return self


def _stacked(outputs: Mapping[str, Tensor]) -> Tensor:
    """Outputs ``[n, b, k]`` in the order of the parties' names, so that sums round the same whoever came first."""
    if not outputs:
        raise InvalidOption("outputs", why="no party is present", mend="Wait until one is.")
    return torch.stack([outputs[party] for party in sorted(outputs)])
