"""What a router is made of, before it is part of a model: rows, or prefix evidence.

Both keep every party's share apart (a row and an offset a layer; a histogram), so that a party leaves by the loss of
its own entries and nothing else changes. Both have the same verbs: ``without`` and ``joined`` (parties go and come),
``config`` and ``tensors`` (the native format), ``beside`` (files that no model reads), and ``in_rows`` (what a public
format can hold of it). `quiltwork.models.routing` says what else has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from quiltwork.models.sources import Source, Sources, stacked

T = TypeVar("T")

EVIDENCE_SETTINGS = (
    "features",
    "symbols",
    "separator",
    "floor",
    "temperature",
    "half_life",
    "switching",
    "bound",
    "top_k",
    "minimum_weight",
)
"""What an evidence router is told besides its rows; ``bound`` is in the rows already, and kept for who joins later."""


@dataclass(frozen=True)
class Rows:
    """A router of rows, one a party and layer.

    The rows of the base's own experts come first: one row of zeros where the base is dense.

    Attributes:
        rows: ``[hidden]`` per party and layer.
        offsets: ``[1]`` per party and layer, added to the logits; empty for a router without. Those that parties
            learned are already clamped to at most zero.
        top_k: experts a token; None for all.
        renormalise: rescale the top-k weights to sum to one.
        weights: slot weights, the base under the empty name; they enter as log-offsets of the logits.
        own: ``[experts, hidden]`` per layer, the rows of a base that is itself a mixture; None for a dense one.
    """

    rows: Mapping[str, list[Source]]
    offsets: Mapping[str, list[Source]]
    top_k: int | None
    renormalise: bool
    weights: Mapping[str, float]
    own: list[Source] | None = None

    def without(self, party: str) -> Rows:
        """The rows of the other parties."""
        return replace(
            self, rows=less(self.rows, party), offsets=less(self.offsets, party), weights=less(self.weights, party)
        )

    def joined(self, late: Rows) -> Rows:
        """These rows and those of parties that come later, routed by the latter's settings."""
        return replace(
            late,
            rows={**self.rows, **late.rows},
            offsets={**self.offsets, **late.offsets},
            weights={**late.weights, **self.weights},
            own=self.own,
        )

    def in_rows(self) -> Rows:
        """Itself."""
        return self

    def beside(self) -> dict[str, Sources]:
        """Nothing: the rows are all there is."""
        return {}

    @property
    def plain(self) -> bool:
        """True if logits get nothing besides the rows: only such a router fits a public format."""
        return not self.offsets and len(set(self.weights.values())) == 1

    @property
    def own_experts(self) -> int:
        """How many experts the base has itself."""
        return 1 if self.own is None else self.own[0].shape[0]

    def active(self, experts: int) -> int:
        """Experts that answer a token."""
        return min(self.top_k or experts, experts)

    def stacked(self, parties: tuple[str, ...], layer: int) -> Source:
        """All rows of a layer ``[own experts + parties, hidden]``, the base's first."""
        first = self.rows[parties[0]][layer]
        own = [Source.zeros(first.dtype, first.shape)] if self.own is None else _rows_of(self.own[layer])
        return stacked([*own, *(self.rows[p][layer] for p in parties)])

    def stacked_offsets(self, parties: tuple[str, ...], layer: int) -> Source:
        """All offsets of a layer ``[own experts + parties]``; those of the base are zero."""
        first = self.offsets[parties[0]][layer]
        own = [Source.zeros(first.dtype, ())] * self.own_experts
        return stacked([*own, *(self.offsets[p][layer].reshaped(()) for p in parties)])

    def config(self, parties: tuple[str, ...]) -> dict[str, Any]:
        """The router's entry in config.json; ``weights`` has one entry a slot."""
        return {
            "kind": "rows",
            "top_k": self.top_k,
            "renormalise": self.renormalise,
            "bias": bool(self.offsets),
            "weights": [self.weights[slot] for slot in ("", *parties)],
        }

    def tensors(self, parties: tuple[str, ...]) -> dict[str, Source]:
        """``router.weight`` and, if there are any, ``router.bias`` of every layer, in the native layout."""
        table: dict[str, Source] = {}
        for layer in range(len(self.rows[parties[0]])):
            name = f"body.model.layers.{layer}.mlp.router."
            table[name + "weight"] = self.stacked(parties, layer)
            if self.offsets:
                table[name + "bias"] = self.stacked_offsets(parties, layer)
        return table


@dataclass(frozen=True)
class Evidence:
    """The prefix-evidence router's rows and settings.

    Attributes:
        rows: log-probability of each symbol (a token, or the cell of a hashed n-gram), float32 ``[symbols]``, by party.
        public: the same for the public text, or None.
        settings: ``EVIDENCE_SETTINGS`` by name (see ``EvidenceRouter``).
        weights: slot weights by party, the base under the empty name.
    """

    rows: Mapping[str, Source]
    public: Source | None
    settings: Mapping[str, Any]
    weights: Mapping[str, float]

    def without(self, party: str) -> Evidence:
        """The evidence of the other parties."""
        return replace(self, rows=less(self.rows, party), weights=less(self.weights, party))

    def joined(self, late: Evidence) -> Evidence:
        """This evidence and that of parties that come later, read by the latter's settings."""
        weights = {**late.weights, **self.weights}
        return replace(late, rows={**self.rows, **late.rows}, public=self.public, weights=weights)

    def in_rows(self) -> None:
        """None: a state over the prefix cannot be a row."""
        return

    def beside(self) -> dict[str, Sources]:
        """Nothing: the rows are all there is."""
        return {}

    def config(self, parties: tuple[str, ...]) -> dict[str, Any]:
        """The router's entry in config.json."""
        return {
            "kind": "evidence",
            "public": self.public is not None,
            "weights": [self.weights[slot] for slot in ("", *parties)],
            **self.settings,
        }

    def tensors(self, parties: tuple[str, ...]) -> dict[str, Source]:
        """The one tensor ``evidence.rows`` ``[public + parties, symbols]``."""
        rows = ([self.public] if self.public else []) + [self.rows[p] for p in parties]
        return {"evidence.rows": stacked(rows)}


def less(table: Mapping[str, T], party: str) -> dict[str, T]:
    """A table by party, without one of them."""
    return {name: value for name, value in table.items() if name != party}


def _rows_of(table: Source) -> list[Source]:
    return [table.row(index) for index in range(table.shape[0])]
