"""All that a mixture of experts can be routed by: rows, rows computed of moments, evidence, rows with evidence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from quiltwork.models.discriminants import Discriminants
from quiltwork.models.routers import Evidence, Rows
from quiltwork.models.sources import Source, Sources


@dataclass(frozen=True)
class RowsAndEvidence:
    """Rows and prefix evidence together: in layer l the logit of a slot is ``share * row logit + log posterior``.

    Attributes:
        rows: rows, with top_k and renormalise of the whole; their slot weights are all one.
        evidence: the posterior; slot weights are its prior, and ``minimum_weight`` is the whole's.
        share: weight of the rows' logits.
    """

    rows: Rows | Discriminants
    evidence: Evidence
    share: float

    def without(self, party: str) -> RowsAndEvidence:
        """Rows and evidence of the other parties."""
        return replace(self, rows=self.rows.without(party), evidence=self.evidence.without(party))

    def joined(self, late: RowsAndEvidence) -> RowsAndEvidence:
        """These and those of parties that come later."""
        rows = self.rows.joined(late.rows)  # type: ignore[arg-type] # composed by one method, so of one kind
        return replace(late, rows=rows, evidence=self.evidence.joined(late.evidence))

    def in_rows(self) -> None:
        """None: a state over the prefix cannot be a row."""
        return

    def beside(self) -> dict[str, Sources]:
        """What the rows have beside them."""
        return self.rows.beside()

    def config(self, parties: tuple[str, ...]) -> dict[str, Any]:
        """The router's entry in config.json; the weights of slots stand with the evidence and outside."""
        rows, evidence = self.rows.config(parties), self.evidence.config(parties)
        return {
            "kind": "rows_and_evidence",
            "rows": rows,
            "evidence": evidence,
            "share": self.share,
            "weights": evidence["weights"],
        }

    def tensors(self, parties: tuple[str, ...]) -> dict[str, Source]:
        """The tensors of both."""
        return self.rows.tensors(parties) | self.evidence.tensors(parties)


Routing: TypeAlias = Rows | Discriminants | Evidence | RowsAndEvidence
"""What an assembly is routed by."""
