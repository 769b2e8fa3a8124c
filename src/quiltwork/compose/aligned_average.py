"""Aligned average: experts brought into one order, then averaged, parameter by parameter.

    b_k = sum_m lambda_m b_m,s_m(k)      likewise variances and the gate's rows;  lambda_m = N_m / N

with the permutations s_m of ``ordered``. Averaging a gate's coefficients is averaging its logits. Where it is clear
which expert is which and machines see alike covariates, this is as good as the fit to all rows; where it is not, one
wrong pair spoils two experts. All machines must have as many experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quiltwork.compose.ordered import in_order
from quiltwork.compose.support import require_support
from quiltwork.compose.tables import Local, Solution, Table


@dataclass(frozen=True)
class AlignedAverage:
    """Mean of aligned parameters, weighted by rows.

    Attributes:
        support: covariates at which experts are compared.
        seed: of their draw.
        robust: leave bad fits out.
    """

    support: int = 200
    seed: int = 0
    robust: bool = True

    def __post_init__(self) -> None:
        require_support("AlignedAverage", self.support, self.seed)

    @property
    def name(self) -> str:
        """``aligned_average``."""
        return "aligned_average"

    def needs(self) -> frozenset[str]:
        """A mixture and a covariate summary of each party."""
        return frozenset({"mixture", "covariates"})

    def solve(self, table: Table, locals: Sequence[Local]) -> Solution:  # noqa: ARG002
        """The mean.

        Raises:
            CompatibilityError: machines have different numbers of experts.
        """
        found = in_order(locals, self.support, self.seed, self.robust)
        return Solution(found.mean(), found.excluded)
