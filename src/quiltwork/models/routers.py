"""What a router is made of, before it is part of a model: learned rows, or prefix evidence.

Both keep every party's share apart (a row and a bias a layer; a histogram), so that a party leaves by the loss of its
own entries and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from quiltwork.models.sources import Source


@dataclass(frozen=True)
class Rows:
    """A router of learned rows, one a party and layer; the base's own row is zero.

    Attributes:
        rows: ``[hidden]`` per party and layer.
        biases: ``[1]`` per party and layer, already clamped to at most zero; empty for a router without.
        top_k: experts a token; None for all.
        renormalise: rescale the top-k weights to sum to one.
        weights: slot weights, the base first; they enter as log-offsets of the logits.
    """

    rows: Mapping[str, list[Source]]
    biases: Mapping[str, list[Source]]
    top_k: int | None
    renormalise: bool
    weights: Mapping[str, float]

    def without(self, party: str) -> Rows:
        """The rows of the other parties."""
        return replace(
            self,
            rows={p: r for p, r in self.rows.items() if p != party},
            biases={p: b for p, b in self.biases.items() if p != party},
            weights={p: w for p, w in self.weights.items() if p != party},
        )

    @property
    def offsets(self) -> bool:
        """True if logits get anything besides the rows: then only the native format holds the router."""
        return bool(self.biases) or len(set(self.weights.values())) > 1

    def active(self, experts: int) -> int:
        """Experts that answer a token."""
        return min(self.top_k or experts, experts)

    def stacked(self, parties: tuple[str, ...], layer: int) -> Source:
        """All rows of a layer ``[1 + parties, hidden]``, the base's zero row first."""
        first = self.rows[parties[0]][layer]

        def load() -> Tensor:
            rows = [self.rows[p][layer].load() for p in parties]
            return torch.stack([torch.zeros_like(rows[0]), *rows])

        return Source(first.dtype, (1 + len(parties), *first.shape), load)

    def stacked_biases(self, parties: tuple[str, ...], layer: int) -> Source:
        """All biases of a layer ``[1 + parties]``, none of them positive, the base's zero first."""
        first = self.biases[parties[0]][layer]

        def load() -> Tensor:
            biases = [self.biases[p][layer].load().reshape(()).clamp(max=0) for p in parties]
            return torch.stack([torch.zeros_like(biases[0]), *biases])

        return Source(first.dtype, (1 + len(parties),), load)

    def config(self, parties: tuple[str, ...]) -> dict[str, Any]:
        """The router's entry in config.json."""
        return {
            "kind": "rows",
            "top_k": self.top_k,
            "renormalise": self.renormalise,
            "bias": bool(self.biases),
            "weights": [self.weights[slot] for slot in ("", *parties)],
        }

    def tensors(self, parties: tuple[str, ...], layers: int) -> dict[str, Source]:
        """``router.weight`` and, if there are any, ``router.bias`` of every layer, in the native layout."""
        table: dict[str, Source] = {}
        for layer in range(layers):
            name = f"body.model.layers.{layer}.mlp.router."
            table[name + "weight"] = self.stacked(parties, layer)
            if self.biases:
                table[name + "bias"] = self.stacked_biases(parties, layer)
        return table


@dataclass(frozen=True)
class Evidence:
    """The prefix-evidence router's rows and settings.

    Attributes:
        rows: log-probability of each symbol (token or hashed bigram), float32 ``[symbols]``, per party.
        public: the same for the public text, or None.
        settings: features, symbols, separator, floor, temperature, half_life, top_k, minimum_weight (see
            ``EvidenceRouter``).
        weights: slot weights by party, the base under the empty name.
    """

    rows: Mapping[str, Source]
    public: Source | None
    settings: Mapping[str, Any]
    weights: Mapping[str, float]

    def without(self, party: str) -> Evidence:
        """The evidence of the other parties."""
        return replace(
            self,
            rows={p: r for p, r in self.rows.items() if p != party},
            weights={p: w for p, w in self.weights.items() if p != party},
        )

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
        stacked = Source(torch.float32, (len(rows), *rows[0].shape), lambda: torch.stack([r.load() for r in rows]))
        return {"evidence.rows": stacked}
