"""Ambient mixture: the pooled large mixture of all machines, not reduced.

    f(y | x) = sum_m lambda_m(x) sum_k pi_mk(x) phi_mk(y | x)

L = sum_m K_m experts under the machines' own gates. It is what a reduction approximates, and what it must be judged
against: it loses nothing but is M times larger and says no more about which expert is which. With lambda_m = N_m / N a
machine also speaks where it has no data; with ``evidence``, lambda_m(x) is the posterior over machines given x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quiltwork.compose.support import rows_of, summary_of
from quiltwork.compose.tables import Local, Solution, Table
from quiltwork.errors import InvalidOption
from quiltwork.models.mixture.exponential import joined
from quiltwork.models.mixture.gates import ConstantWeights, MachineWeights, PooledGate
from quiltwork.models.mixture.machine_weights import EvidenceWeights
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.pool import softmax_gate


@dataclass(frozen=True)
class AmbientMixture:
    """All machines' experts as they are; their numbers may differ.

    Attributes:
        weights: ``"rows"`` for N_m / N everywhere, ``"evidence"`` for the posterior over machines given x.
    """

    weights: Literal["rows", "evidence"] = "rows"

    def __post_init__(self) -> None:
        if self.weights not in ("rows", "evidence"):
            raise InvalidOption(
                f"weights={self.weights!r}", why="there are no such weights", mend="Use 'rows' or 'evidence'."
            )

    @property
    def name(self) -> str:
        """``ambient``."""
        return "ambient"

    def needs(self) -> frozenset[str]:
        """A mixture of each party, and for ``evidence`` a covariate summary."""
        return frozenset({"mixture"} if self.weights == "rows" else {"mixture", "covariates"})

    def solve(self, table: Table, locals: Sequence[Local]) -> Solution:  # noqa: ARG002
        """The pooled mixture under a `PooledGate`."""
        gates = tuple(softmax_gate(local.mixture) for local in locals)
        experts = joined([local.mixture.experts for local in locals])
        return Solution(Mixture(PooledGate(gates, self._weights(locals)), experts))

    def _weights(self, locals_: Sequence[Local]) -> MachineWeights:
        if self.weights == "rows":
            return ConstantWeights(rows_of(locals_))
        return EvidenceWeights(tuple(summary_of(local) for local in locals_), rows_of(locals_))
