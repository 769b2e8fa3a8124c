"""How a router spreads its work: over slots, and over positions in a text.

For one text, w_e(t) is the weight of slot e at token t, p_e its mean over tokens. A text is *balanced* where all slots
answer alike; a mixture of parties' experts should not be, since each text has its owner. So the figures describe, and
none of them is to be optimised by itself:

    cv             standard deviation of p over slots / their mean        0 balanced, sqrt(S - 1) one slot alone
    max_over_mean  S max_e p_e                                            1 balanced, S one slot alone
    entropy        - sum_e p_e log p_e / log S                            1 balanced, 0 one slot alone

A router that reads the prefix knows little at its beginning, so who answers depends on the position; ``STARTS`` cuts a
text into spans of tokens by how many the router had read before. Text longer than the window is read in windows, and a
window begins anew.

>>> balance([0.5, 0.5]), balance([1.0, 0.0])
(Balance(cv=0.0, max_over_mean=1.0, entropy=1.0), Balance(cv=1.0, max_over_mean=2.0, entropy=0.0))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quiltwork.evaluate.scores import Routing, Span

STARTS = (0, 16, 64, 256)
"""First positions of the spans; the last has no end."""


class Balance(NamedTuple):
    """How evenly shares lie over slots; see the module's docstring."""

    cv: float
    max_over_mean: float
    entropy: float


def balance(shares: Sequence[float]) -> Balance:
    """The balance of mean weights, one a slot, not all zero."""
    p = np.asarray(shares, dtype=np.float64)
    p = p / p.sum()
    positive = p[p > 0]
    entropy = float(-(positive * np.log(positive)).sum() / np.log(len(p))) if len(p) > 1 else 1.0
    return Balance(float(p.std() * len(p)), float(p.max() * len(p)), abs(entropy))


class Tally:
    """Sums over one router's decisions.

    Args:
        slots: S.

    Attributes:
        weights: float64 ``[spans, S]``, sums of weights.
        firsts: float64 ``[spans, S]``, tokens that give a slot the largest weight; shared among equals.
        tokens: int64 ``[spans]``.
        documents: for each document, float64 ``[S]``: sums of weights.
    """

    def __init__(self, slots: int) -> None:
        self.weights = np.zeros((len(STARTS), slots))
        self.firsts = np.zeros((len(STARTS), slots))
        self.tokens = np.zeros(len(STARTS), dtype=np.int64)
        self.documents: dict[int, NDArray[np.float64]] = {}

    def add(self, weights: NDArray[np.float64], real: NDArray[np.bool_], documents: Sequence[int] = ()) -> None:
        """Count a batch: weights ``[batch, tokens, S]``, real ``[batch, tokens]``, a document's number for each row."""
        weights = weights * real[..., None]
        first = (weights == weights.max(axis=-1, keepdims=True)) & real[..., None]
        firsts = first / np.maximum(first.sum(axis=-1, keepdims=True), 1)
        for number, (start, end) in enumerate(zip(STARTS, (*STARTS[1:], None), strict=True)):
            self.weights[number] += weights[:, start:end].sum(axis=(0, 1))
            self.firsts[number] += firsts[:, start:end].sum(axis=(0, 1))
            self.tokens[number] += real[:, start:end].sum()
        for document, row in zip(documents, weights.sum(axis=1), strict=False):
            self.documents[document] = self.documents.get(document, 0.0) + row

    def shares(self) -> tuple[float, ...]:
        """The mean weight of each slot."""
        return tuple((self.weights.sum(axis=0) / max(self.tokens.sum(), 1)).tolist())


def routing(slots: Sequence[str], tallies: Sequence[Tally]) -> Routing:
    """The record of a text: shares by layer, and by span as means over layers."""
    weights = folded(np.mean([tally.weights for tally in tallies], axis=0), len(slots))
    firsts = folded(np.mean([tally.firsts for tally in tallies], axis=0), len(slots))
    layers = [folded(np.array(tally.shares()), len(slots)) for tally in tallies]
    spans = tuple(
        Span(
            start=start,
            tokens=int(count),
            shares=tuple((weights[number] / count).tolist()),
            firsts=tuple((firsts[number] / count).tolist()),
        )
        for number, (start, count) in enumerate(zip(STARTS, tallies[0].tokens, strict=True))
        if count
    )
    return Routing(slots=tuple(slots), layers=tuple(tuple(layer.tolist()) for layer in layers), spans=spans)


def folded(columns: NDArray[np.float64], slots: int) -> NDArray[np.float64]:
    """Columns ``[..., experts]`` as ``[..., slots]``: a base of several experts comes first and is one slot."""
    own = columns.shape[-1] - slots + 1
    return np.concatenate([columns[..., :own].sum(axis=-1, keepdims=True), columns[..., own:]], axis=-1)


def own_slots(slots: Sequence[str], domain: str) -> list[int]:
    """The slots that answer for a text: those of its party, which may have several, or the base's for public text."""
    found = [n for n, slot in enumerate(slots) if n and (slot == domain or slot.startswith(f"{domain}."))]
    return found or [0]


def measures(found: Routing, domain: str) -> dict[str, float]:
    """Further measures of a cell: the balance of its mean shares, and the share that its own slots have of it."""
    shares = list(found.mean().values())
    known = {f"routing_{name}": value for name, value in balance(shares)._asdict().items()}
    return known | {"routing_own": sum(shares[slot] for slot in own_slots(found.slots, domain))}


def document_shares(tallies: Sequence[Tally], slots: int) -> NDArray[np.float64]:
    """Mean weight of each slot in each document, over tokens and layers: float64 ``[documents, slots]``, in order."""
    each = [[tally.documents[number] for number in sorted(tally.documents)] for tally in tallies]
    sums = folded(np.mean(each, axis=0), slots)
    return sums / sums.sum(axis=1, keepdims=True)  # type: ignore[no-any-return]
