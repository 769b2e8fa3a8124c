"""``RowsAndEvidence``: what this token says and what the text so far says, together.

A product of experts: in layer l the logit of slot e at a token with router input x is

    z_e = share (r_e.x + b_e) + log P(e | x_1..x_t)

then softmax, top-k, renormalisation, as for rows alone. The prefix says which party the text is from, and the rows may
turn single tokens and layers of it elsewhere. A share of 0 is the evidence alone. The evidence is a state over the
prefix, so the format is the native one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quiltwork.compose.router import require_dense
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_lda import ResidualLDA
from quiltwork.compose.router_prompts import PromptRows
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.compose.statistics import PublicText
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.models.base import Base
from quiltwork.models.routing import RowsAndEvidence as Joint


@dataclass(frozen=True)
class RowsAndEvidence:
    """Router of rows and prefix evidence.

    Attributes:
        rows: the rows; their ``top_k`` and ``renormalise`` hold for the whole.
        evidence: the posterior over parties; its ``minimum_weight`` holds for the whole.
        share: weight of the rows' logits, not negative.
    """

    rows: LearnedRows | ResidualLDA | PromptRows = field(default_factory=LearnedRows)
    evidence: PrefixEvidence = field(default_factory=PrefixEvidence)
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.share < float("inf"):
            why = "it weighs the rows' logits"
            raise InvalidOption(f"share={self.share}", why=why, mend="Choose a number from 0 on.")
        if self.evidence.top_k is not None:
            raise InvalidOption(
                f"top_k={self.evidence.top_k} of the evidence",
                why="experts are chosen once, when rows and evidence have been added up",
                mend="Give the rows a top_k instead.",
            )

    @property
    def name(self) -> str:
        """``evidence_rows``."""
        return "evidence_rows"

    def needs(self) -> frozenset[str]:
        """What rows and evidence need."""
        return self.rows.needs() | self.evidence.needs()

    def routing(
        self, base: Base, members: Sequence[Contribution], public: PublicText, weights: Mapping[str, float]
    ) -> Joint:
        """Rows and evidence; slot weights are the posterior's prior, and enter once.

        Raises:
            InvalidOption: the base is a mixture itself.
            InvalidOption, MissingPart, TensorMismatch: as the rows' and the evidence's own.
        """
        require_dense(base, "rows with evidence")
        even: dict[str, Any] = dict.fromkeys(weights, 1.0)
        rows = self.rows.routing(base, members, public, even)
        return Joint(rows, self.evidence.routing(base, members, public, weights), self.share)
