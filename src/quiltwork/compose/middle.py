"""Middle: the one local fit that is nearest to all others, their medoid.

    argmin_g  sum_m lambda_m T(f_m, g),   g among the locals, lambda_m = N_m / N

It averages nothing, so that no bad local fit can spoil it as long as most are good, and it learns nothing from the
others. T is one of

* ``bound``: the upper bound on KL(f_m || g) in closed form (`quiltwork.models.mixture.transport.divergence_bound`),
  which sees experts and gates;
* ``transport``: the exact transportation divergence (Chamroukhi and Pham, arXiv 2312.09877), a linear programme a row:
  about 70 microseconds for each row and pair of machines with four experts;
* ``relaxed``: the same without the second marginal; it does not see the gate of g.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from quiltwork.compose.support import draw_support, require_support, shares_of
from quiltwork.compose.tables import Local, Solution, Table
from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.gates import ConstantWeights
from quiltwork.models.mixture.neighbours import bounds
from quiltwork.models.mixture.pool import everywhere
from quiltwork.models.mixture.transport import Marginals, transport_divergence

Divergence = Literal["bound", "transport", "relaxed"]


@dataclass(frozen=True)
class Middle:
    """The medoid of the local fits; their numbers of experts may differ.

    Attributes:
        divergence: ``"bound"``, ``"transport"`` or ``"relaxed"``.
        support: covariates at which fits are compared.
        seed: of their draw.
    """

    divergence: Divergence = "bound"
    support: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        require_support("Middle", self.support, self.seed)
        if self.divergence not in ("bound", "transport", "relaxed"):
            raise InvalidOption(
                f"divergence={self.divergence!r}",
                why="there is no such divergence",
                mend="Use 'bound', 'transport' or 'relaxed'.",
            )

    @property
    def name(self) -> str:
        """``middle``."""
        return "middle"

    def needs(self) -> frozenset[str]:
        """A mixture and a covariate summary of each party."""
        return frozenset({"mixture", "covariates"})

    def solve(self, table: Table, locals: Sequence[Local]) -> Solution:  # noqa: ARG002
        """The fit as it was given; who it is from is in the notes."""
        x = draw_support(locals, self.support, self.seed)
        totals = total_divergences(locals, x, self.divergence)
        nearest = int(np.argmin(totals))
        note = f"The middle is the fit of party '{locals[nearest].party}', on average {totals[nearest]:.4g} nats away."
        return Solution(locals[nearest].mixture, notes=(note,))


def total_divergences(locals_: Sequence[Local], x: Array, divergence: Divergence = "bound") -> Array:
    """sum_m lambda_m T(f_m, f_j) for each machine j, in nats: float64 ``[M]``."""
    if divergence == "bound":
        pool = everywhere([local.mixture for local in locals_], ConstantWeights(np.ones(len(locals_))), x)
        return np.asarray(shares_of(locals_) @ bounds(pool, np.ones((len(x), len(locals_)))))
    marginals: Marginals = "both" if divergence == "transport" else "relaxed"
    values = [[_gap(f, g, x, marginals) for g in locals_] for f in locals_]
    return np.asarray(shares_of(locals_) @ np.array(values))


def _gap(f: Local, g: Local, x: Array, marginals: Marginals) -> float:
    return 0.0 if f is g else transport_divergence(f.mixture, g.mixture, x, marginals)
