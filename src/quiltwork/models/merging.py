"""How differences from one base become one difference: the rules of merging in weight space.

For a tensor of the base with differences delta_1..delta_n of the parties, in the order of their names, and weights w_i:

    Linear     sum_i c_i delta_i,   c_i = w_i / sum_j w_j, or scale * w_i
    Ties       scale * mean over those parties whose trimmed entry has the elected sign, entry by entry
    Dare       a random share ``density`` of each difference, divided by the density, then as Linear or as Ties

A linear rule is a weighted sum and streams. The others look at all differences of one tensor together: n + 1 copies of
that tensor in float64 and no more. Trimming and the election of signs are peft's (``peft.utils.merge_utils``). Random
numbers are not: peft draws from the process's generator, and a party's mask must not depend on who else is there.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from quiltwork.errors import InvalidOption

if TYPE_CHECKING:
    from torch import Tensor


class Change(NamedTuple):
    """What a party changed in one tensor: its name, its weight, the difference in float64."""

    party: str
    weight: float
    delta: Tensor


class Elementwise(Protocol):
    """A rule that needs all differences of a tensor at once."""

    def merge(self, name: str, changes: Sequence[Change]) -> Tensor:
        """The difference to add to tensor ``name``, float64, from at least one change; sorted by party."""
        ...


@dataclass(frozen=True)
class Linear:
    """A weighted sum of the differences.

    Attributes:
        scale: multiplies the weights as they are; None divides them by their sum instead, which makes the result the
            weighted mean of the parties' models.
    """

    scale: float | None = None

    def coefficients(self, weights: Mapping[str, float]) -> dict[str, float]:
        """What each party's difference is multiplied by.

        >>> Linear().coefficients({"ash": 3.0, "birch": 1.0})
        {'ash': 0.75, 'birch': 0.25}
        >>> Linear(scale=0.5).coefficients({"ash": 3.0, "birch": 1.0})
        {'ash': 1.5, 'birch': 0.5}
        """
        total = sum(weights[party] for party in sorted(weights))
        if self.scale is None:
            return {party: weight / total for party, weight in weights.items()}
        return {party: self.scale * weight for party, weight in weights.items()}


@dataclass(frozen=True)
class Ties:
    """Trim, elect a sign, average those who agree (TIES, arXiv 2306.01708, section 4).

    Attributes:
        density: share of each tensor's entries, the largest in magnitude, that a party keeps.
        scale: multiplies the merged difference (the paper's lambda).
    """

    density: float = 0.2
    scale: float = 1.0

    def merge(self, name: str, changes: Sequence[Change]) -> Tensor:  # noqa: ARG002 - the signature of every rule
        """Merged difference of one tensor, float64."""
        from peft.utils.merge_utils import magnitude_based_pruning

        return self.scale * _agreeing([magnitude_based_pruning(c.delta, self.density) for c in changes], changes)


@dataclass(frozen=True)
class Dare:
    """Drop entries at random and rescale those that stay (DARE, arXiv 2311.03099, section 3.2), then merge.

    Attributes:
        density: probability that an entry of a difference stays (the paper's 1 - p).
        elect: merge what stays as TIES does; else as a weighted sum (task arithmetic).
        scale: multiplies the merged difference.
        seed: of the masks; with the party and the tensor's name it decides which entries stay.
    """

    density: float = 0.5
    elect: bool = False
    scale: float = 1.0
    seed: int = 0

    def merge(self, name: str, changes: Sequence[Change]) -> Tensor:
        """Merged difference of one tensor, float64."""
        kept = [c.delta * self._mask(c.party, name, c.delta) / self.density for c in changes]
        if self.elect:
            return self.scale * _agreeing(kept, changes)
        return self.scale * sum(c.weight * delta for c, delta in zip(changes, kept, strict=True))  # type: ignore[return-value]

    def _mask(self, party: str, name: str, delta: Tensor) -> Tensor:
        import torch

        return torch.from_numpy(kept_entries(self.seed, party, name, tuple(delta.shape), self.density))


def kept_entries(seed: int, party: str, name: str, shape: tuple[int, ...], density: float) -> np.ndarray:
    """Which entries of a party's tensor stay: bool of ``shape``, each True with probability ``density``.

    The stream is PCG64 seeded with the SHA-256 of seed, party and tensor name, so nobody else matters to it.
    """
    digest = hashlib.sha256("\0".join((str(seed), party, name)).encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "big")))
    return np.asarray(generator.random(shape) < density)


def _agreeing(kept: Sequence[Tensor], changes: Sequence[Change]) -> Tensor:
    """Mean of w_i times entry over the parties whose entry has the sign of the entries' sum."""
    import torch
    from peft.utils.merge_utils import calculate_majority_sign_mask, disjoint_merge

    stacked = torch.stack(list(kept))
    weights = stacked.new_tensor([c.weight for c in changes]).reshape(-1, *[1] * (stacked.dim() - 1))
    return disjoint_merge(stacked * weights, calculate_majority_sign_mask(stacked))


def check_rule(*, scale: float, density: float | None = None) -> None:
    """Refuse a scale or a density outside its domain.

    Raises:
        InvalidOption: naming it.
    """
    if not 0 < scale < math.inf:
        raise InvalidOption(
            f"scale={scale}", why="it multiplies what the parties changed", mend="Choose a positive, finite number."
        )
    if density is not None and not 0 < density <= 1:
        raise InvalidOption(
            f"density={density}", why="it is a share of a tensor's entries", mend="Choose one in (0, 1]."
        )
