"""Soup: one dense model, the weighted mean of the parties' full models.

    theta = base + sum_i w_i delta_i,   sum_i w_i = 1

The uniform soup is model soups (arXiv 2203.05482); with models that moved far apart it is worse than any of them, and
often worse than the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quiltwork.compose.method import PublicText, chosen
from quiltwork.compose.parts import body, full_deltas
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.models.assembly import Blend
from quiltwork.models.base import Base


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
        """The blend; one pass over the tensors when it is loaded or written.

        Raises:
            InvalidOption: the base is given a weight.
        """
        if "base" in self.weights:
            raise InvalidOption(
                "a weight of 'base'",
                why="a soup is the mean of the parties' models, and the base is none of them",
                mend="Leave it out, or use an Ensemble, in which the base is a member.",
            )
        parties = chosen([c.party for c in contributions], self.include, self.weights)
        deltas = {c.party: full_deltas(c, base) for c in contributions if c.party in parties}
        return Blend(body(base), deltas, {p: float(self.weights.get(p, 1.0)) for p in parties})
