"""DARE: most of what a party changed is dropped at random, the rest is rescaled, and then the parties are merged.

With m_i a mask of independent entries, each one with probability ``density``,

    d_i   = m_i * delta_i / density                                     E[d_i] = delta_i
    theta = theta_0 + scale * sum_i w_i d_i                             elect=False
    theta = theta_0 + scale * TIES' election and mean over the d_i      elect=True

Language models are super Mario, arXiv 2311.03099, section 3.2. A party's mask is a function of the seed, its name and
the tensor's name: it stays what it is when others join or leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quiltwork.compose.method import PublicText
from quiltwork.compose.weight_space import blended
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.models import merging
from quiltwork.models.assembly import Blend
from quiltwork.models.base import Base


@dataclass(frozen=True)
class Dare:
    """Drop and rescale, then merge full experts.

    Attributes:
        density: probability that an entry of a difference stays.
        elect: merge what stays as TIES does; else as task arithmetic.
        scale: multiplies the merged difference.
        seed: of the masks, from 0.
        weights: factor of a party's difference; one unless stated.
        include: the parties that take part; None for all.
    """

    density: float = 0.5
    elect: bool = False
    scale: float = 0.4
    seed: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)
    include: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        merging.check_rule(scale=self.scale, density=self.density)
        if self.seed < 0:
            raise InvalidOption(f"seed={self.seed}", why="seeds are not negative", mend="Give 0 or more.")

    @property
    def name(self) -> str:
        """``dare``."""
        return "dare"

    def needs(self) -> frozenset[str]:
        """A full expert of each party."""
        return frozenset({"full"})

    def assemble(
        self,
        base: Base,
        contributions: Sequence[Contribution],
        public: PublicText,  # noqa: ARG002 - the signature of every method
    ) -> Blend:
        """The merge; one tensor of all parties at a time when it is loaded or written."""
        rule = merging.Dare(self.density, self.elect, self.scale, self.seed)
        return blended(base, contributions, self.weights, self.include, rule)
