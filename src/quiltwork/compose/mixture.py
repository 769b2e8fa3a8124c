"""Mixture of experts: each token is answered by the parties that its router trusts.

The experts are feed-forward blocks of one body, or whole models. The routers have a file each:

* ``router_rows.LearnedRows``: rows that the parties learned (FlexOlmo). Fits public mixture formats.
* ``router_lda.ResidualLDA``: rows and offsets computed from the moments that the parties released.
* ``router_prompts.PromptRows``: rows from prompts that the composer writes for each party.
* ``router_evidence.PrefixEvidence``: the posterior over parties given the tokens so far. With ffn experts it mixes the
  experts of one body; with full experts it selects whole models, and only the selected ones run.
* ``router_both.RowsAndEvidence``: rows and posterior together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from quiltwork.compose.ensemble import member_models
from quiltwork.compose.method import PublicText, chosen, slot_weights
from quiltwork.compose.parts import body, extended, ffn_tensors
from quiltwork.compose.router_both import RowsAndEvidence
from quiltwork.compose.router_evidence import PrefixEvidence
from quiltwork.compose.router_lda import ResidualLDA
from quiltwork.compose.router_prompts import PromptRows
from quiltwork.compose.router_rows import LearnedRows
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import InvalidOption
from quiltwork.models.assembly import Experts, Members
from quiltwork.models.base import Base


@dataclass(frozen=True)
class MixtureOfExperts:
    """Experts of several parties in one model.

    Attributes:
        router: how tokens find their experts.
        scope: ``"ffn"``, or ``"full"`` (PrefixEvidence only).
        weights: weight of a party, or of ``"base"``: the prior of an evidence router, a log-offset of rows.
        include: the parties that take part; None for all.
    """

    router: LearnedRows | ResidualLDA | PromptRows | PrefixEvidence | RowsAndEvidence = field(
        default_factory=PrefixEvidence
    )
    scope: Literal["ffn", "full"] = "ffn"
    weights: Mapping[str, float] = field(default_factory=dict)
    include: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.scope not in ("ffn", "full"):
            raise InvalidOption(f"scope={self.scope!r}", why="there is no such scope", mend="Use 'ffn' or 'full'.")
        if self.scope == "full" and not isinstance(self.router, PrefixEvidence):
            raise InvalidOption(
                f"{self.router.name.replace('_', ' ')} with full experts",
                why="rows choose among the feed-forward blocks of one body, and full experts have bodies of their own",
                mend="Use scope='ffn', or PrefixEvidence.",
            )

    @property
    def name(self) -> str:
        """The router's name; of prefix evidence ``evidence_ffn`` or ``evidence_full``."""
        return f"evidence_{self.scope}" if isinstance(self.router, PrefixEvidence) else self.router.name

    def needs(self) -> frozenset[str]:
        """The scope's expert, and what the router asks for."""
        return self.router.needs() | {self.scope}

    def assemble(self, base: Base, contributions: Sequence[Contribution], public: PublicText) -> Experts | Members:
        """The mixture; see the module's docstring."""
        parties = chosen([c.party for c in contributions], self.include, self.weights)
        members = [c for c in contributions if c.party in parties]
        weights = slot_weights(parties, self.weights)
        if self.scope == "full" and isinstance(self.router, PrefixEvidence):
            selecting = replace(self.router, top_k=self.router.top_k or 1)
            evidence = selecting.routing(base, members, public, weights)
            return Members(body(base), member_models(base, members, parties), evidence, {}, weights)
        experts = {c.party: ffn_tensors(c, base) for c in members}
        # other rows are computed against a base whose row is zero, and a mixture has rows of its own
        extends = isinstance(self.router, LearnedRows | PrefixEvidence)
        return Experts(
            extended(base) if extends else body(base), experts, self.router.routing(base, members, public, weights)
        )
