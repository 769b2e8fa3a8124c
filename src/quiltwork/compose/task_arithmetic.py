"""Task arithmetic: the parties' differences are added up, and the sum is scaled.

    theta = theta_0 + scale * sum_i w_i delta_i        w_i = 1 unless stated

Editing models with task arithmetic, arXiv 2212.04089, section 4.2 (one scale for all task vectors, chosen on held-out
data; 0.3 to 0.5 does well there). At scale = 1/n it is the uniform soup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from quiltwork.compose.method import PublicText
from quiltwork.compose.weight_space import blended
from quiltwork.contribution.sealed import Contribution
from quiltwork.models.assembly import Blend
from quiltwork.models.base import Base
from quiltwork.models.merging import Linear, check_rule


@dataclass(frozen=True)
class TaskArithmetic:
    """Scaled sum of full experts' differences.

    Attributes:
        scale: multiplies the sum.
        weights: factor of a party's difference; one unless stated. They are not made to sum to one.
        include: the parties that take part; None for all.
    """

    scale: float = 0.4
    weights: Mapping[str, float] = field(default_factory=dict)
    include: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_rule(scale=self.scale)

    @property
    def name(self) -> str:
        """``task_arithmetic``."""
        return "task_arithmetic"

    def needs(self) -> frozenset[str]:
        """A full expert of each party."""
        return frozenset({"full"})

    def assemble(
        self,
        base: Base,
        contributions: Sequence[Contribution],
        public: PublicText,  # noqa: ARG002 - the signature of every method
    ) -> Blend:
        """The sum; one pass over the tensors when it is loaded or written."""
        return blended(base, contributions, self.weights, self.include, Linear(self.scale))
