"""TIES: each party keeps its largest changes; entry by entry a sign is elected, and those who have it are averaged.

For each tensor, with trim(delta_i) the ``density`` largest entries in magnitude and zero elsewhere,

    sign  = sign(sum_i trim(delta_i))                              entry by entry
    theta = theta_0 + scale * mean over { i : sign(trim(delta_i)) = sign } of w_i trim(delta_i)

TIES-Merging, arXiv 2306.01708, section 4 (density 0.2 and scale 1 there). The paper trims over all tensors of a party
at once; here, as in peft and mergekit, each tensor is trimmed by itself, so that one tensor at a time is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quiltwork.compose.method import PublicText
from quiltwork.compose.weight_space import blended
from quiltwork.contribution.sealed import Contribution
from quiltwork.models import merging
from quiltwork.models.assembly import Blend
from quiltwork.models.base import Base


@dataclass(frozen=True)
class Ties:
    """TIES merging of full experts.

    Attributes:
        density: share of each tensor's entries that a party keeps.
        scale: multiplies the merged difference.
        weights: factor of a party's entries after the sign is elected; one unless stated.
        include: the parties that take part; None for all.
    """

    density: float = 0.2
    scale: float = 1.0
    weights: Mapping[str, float] = field(default_factory=dict)
    include: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        merging.check_rule(scale=self.scale, density=self.density)

    @property
    def name(self) -> str:
        """``ties``."""
        return "ties"

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
        return blended(base, contributions, self.weights, self.include, merging.Ties(self.density, self.scale))
