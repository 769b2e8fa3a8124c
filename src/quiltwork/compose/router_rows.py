"""``LearnedRows``: the rows that the parties learned, stacked (FlexOlmo, arXiv 2507.07024).

Every party trained its row against the base alone; the base's row is zero. softmax over all experts, top-k. Fits public
mixture formats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quiltwork.compose.parts import routed, router_tensors
from quiltwork.compose.router import require_top_k
from quiltwork.compose.statistics import PublicText
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import MissingPart
from quiltwork.models.base import Base
from quiltwork.models.routers import Rows
from quiltwork.models.sources import clamped


@dataclass(frozen=True)
class LearnedRows:
    """Router of the rows that the parties learned.

    Attributes:
        top_k: experts a token; None for all, or, where the base is a mixture that has fewer answer, for its number.
        renormalise: rescale the top-k weights to sum to one. Mixtral always does; in FlexOlmo it is a flag.
        bias: use the parties' negative biases too (native format only).
    """

    top_k: int | None = None
    renormalise: bool = True
    bias: bool = False

    def __post_init__(self) -> None:
        require_top_k(self.top_k)

    @property
    def name(self) -> str:
        """``learned_rows``."""
        return "learned_rows"

    def needs(self) -> frozenset[str]:
        """Nothing besides the expert, which brings its row along."""
        return frozenset()

    def routing(
        self,
        base: Base,
        members: Sequence[Contribution],
        public: PublicText,  # noqa: ARG002 - the signature of every router
        weights: Mapping[str, float],
    ) -> Rows:
        """The rows as they are, the biases clamped to at most zero.

        Raises:
            MissingPart: a party trained without rows, or without biases that are asked for.
        """
        for contribution in members:
            _require_rows(contribution, self.bias)
        biases = {c.party: [clamped(b) for b in router_tensors(c, base, "bias")] for c in members} if self.bias else {}
        return Rows(
            rows={c.party: router_tensors(c, base, "weight") for c in members},
            offsets=biases,
            top_k=self.top_k or _usual(base),
            renormalise=self.renormalise,
            weights=weights,
            own=list(base.own.rows) if base.own is not None else None,
        )


def _usual(base: Base) -> int | None:
    """How many experts answer unless somebody says otherwise."""
    own = base.own
    return own.top_k if own is not None and own.top_k < own.count else None


def _require_rows(contribution: Contribution, bias: bool) -> None:
    declared = routed(contribution)
    if not declared.router or (bias and not declared.bias):
        wanted = "router biases" if declared.router else "router rows"
        raise MissingPart(
            f"the contribution of party '{contribution.party}'",
            why=f"it was trained without {wanted}",
            mend="Use PrefixEvidence, or ask the party to train with an anchor (anchor_share > 0).",
        )
