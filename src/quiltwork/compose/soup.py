"""Soup: one dense model, the weighted mean of the parties' full models.

    theta = base + sum_i w_i delta_i,   sum_i w_i = 1

The uniform soup is model soups (arXiv 2203.05482); with models that moved far apart it is worse than any of them, and
often worse than the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quiltwork.compose.method import PublicText
from quiltwork.compose.weight_space import blended
from quiltwork.contribution.sealed import Contribution
from quiltwork.models.assembly import Blend
from quiltwork.models.base import Base
from quiltwork.models.merging import Linear


@dataclass(frozen=True)
class Soup:
    """Mean of full experts in weight space.

    Attributes:
        weights: share of a party before normalisation; one unless stated.
        include: the parties that take part; None for all.
    """

    weights: Mapping[str, float] = field(default_factory=dict)
    include: tuple[str, ...] | None = None

    @property
    def name(self) -> str:
        """``soup``."""
        return "soup"

    def needs(self) -> frozenset[str]:
        """A full expert of each party."""
        return frozenset({"full"})

    def assemble(
        self,
        base: Base,
        contributions: Sequence[Contribution],
        public: PublicText,  # noqa: ARG002 - the signature of every method
    ) -> Blend:
        """The blend; one pass over the tensors when it is loaded or written."""
        return blended(base, contributions, self.weights, self.include, Linear())
