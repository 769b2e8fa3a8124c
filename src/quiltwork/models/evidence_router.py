"""The prefix-evidence router: who is likely to have written this text, judged by its tokens so far.

A text is read as a sequence of symbols c_1..c_t: its tokens, or its hashed bigrams or trigrams. For hypotheses h (each
party's histogram u_h, the public text's, and "none of them"), naive Bayes over the prefix gives

    log P(h | x_1..x_t) = log prior_h + sum_{s<=t} lambda^(t-s) log u_h(c_s) / temperature + const

or, with switching, the filter of an author who changes (`quiltwork.evidence.posterior`).

The router has no trained parameters; a party leaves it by the loss of one row. Its state is one number a hypothesis
and sequence, and the last two tokens, so it works beside a key-value cache. Separators say nothing about who wrote a
text: they are passed over, and nothing before one is in the symbols after it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quiltwork.evidence import bigrams, trigrams
from quiltwork.evidence.posterior import PrefixPosterior


@dataclass(frozen=True)
class RouterState:
    """What the router remembers of a batch of sequences.

    Attributes:
        posterior: ``[batch, hypotheses]``, as ``PrefixPosterior`` keeps it.
        last: int64 ``[batch, 2]``, the last two real tokens of each sequence, the older first.
    """

    posterior: Tensor
    last: Tensor

    def select(self, indices: Tensor) -> RouterState:
        """The state of the sequences ``indices``, which may repeat."""
        return RouterState(
            self.posterior.index_select(0, indices.to(self.posterior.device)),
            self.last.index_select(0, indices.to(self.last.device)),
        )


class EvidenceRouter(nn.Module):
    """Posterior over slots for every prefix of a sequence.

    Args:
        settings: ``{"features": "tokens" | "bigrams" | "trigrams", "symbols": int, "separator": int, "public": bool,
            "floor": float | None, "weights": [slot weights], "temperature": float, "half_life": float | None,
            "switching": float | None, "top_k": int | None, "minimum_weight": float}``; ``weights`` has one entry a
            slot, the base first; ``symbols`` is the size of the alphabet (V, or the number of hash cells).

    The buffer ``rows`` ``[public + parties, symbols]`` (float32) holds log u_h, the public row first when there is one.
    """

    rows: Tensor

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.settings = dict(settings)
        self.slots = len(settings["weights"])
        rows = self.slots - 1 + int(settings["public"])
        # float32 whatever the weights' type: rounded log-probabilities would add up over a prefix
        self.register_buffer("rows", torch.zeros(rows, settings["symbols"], dtype=torch.float32))
        self._made: tuple[Tensor, int, PrefixPosterior] | None = None

    def _hypotheses(self) -> list[int]:
        """The slot that each hypothesis speaks for; the hypotheses are public, none of them, parties."""
        base = [0] * (int(self.settings["public"]) + int(self.settings["floor"] is not None))
        return [*base, *range(1, self.slots)]

    def posterior(self) -> PrefixPosterior:
        """The posterior that the rows and settings define, kept until the rows change."""
        version = 0 if self.rows.is_inference() else self.rows._version
        if self._made is None or self._made[0] is not self.rows or self._made[1] != version:
            self._made = (self.rows, version, self._posterior())
        return self._made[2]

    def _posterior(self) -> PrefixPosterior:
        floor = self.settings["floor"]
        rows = self.rows
        if floor is not None:
            row = torch.full_like(rows[:1], floor - math.log(rows.shape[1]))
            public = int(self.settings["public"])
            rows = torch.cat([rows[:public], row, rows[public:]])
        slot = self._hypotheses()
        weights = self.settings["weights"]
        log_prior = [math.log(weights[s] / slot.count(s)) for s in slot]
        return PrefixPosterior(
            log_likelihood=rows,
            log_prior=torch.tensor(log_prior, device=rows.device, dtype=torch.float64),
            slot=tuple(slot),
            slots=self.slots,
            temperature=self.settings["temperature"],
            half_life=self.settings["half_life"],
            switching=self.settings["switching"],
        )

    def forward(self, ids: Tensor, state: RouterState | None, mask: Tensor | None) -> tuple[Tensor, RouterState]:
        """Mixing weights ``[batch, tokens, slots]`` and the state after the last token.

        Args:
            ids: int64 ``[batch, tokens]``.
            state: what an earlier call returned for the tokens before these, or None at the start.
            mask: bool ``[batch, tokens]``, False where a token is padding; None if none is.
        """
        log_weights, state = self.log_posterior(ids, state, mask)
        return self._sparsify(log_weights.exp()), state

    def log_posterior(self, ids: Tensor, state: RouterState | None, mask: Tensor | None) -> tuple[Tensor, RouterState]:
        """Log-posterior over slots, float32 ``[batch, tokens, slots]``, and the state; arguments as of `forward`."""
        posterior = self.posterior()
        separator = self.settings["separator"]
        mask = None if mask is None or bool(mask.all()) else mask
        if state is None:
            start = posterior.initial_state(ids.shape[0], ids.device)
            state = RouterState(start, torch.full_like(ids[:, :1], separator).repeat(1, 2))
        before, previous, last = _context(ids, state.last, mask)
        symbols = self._symbols(before, previous, ids)
        speaks = ids != separator
        log_weights, summed = posterior.advance(symbols, state.posterior, speaks if mask is None else mask & speaks)
        return log_weights, RouterState(summed, last)

    def _symbols(self, before: Tensor, previous: Tensor, ids: Tensor) -> Tensor:
        cells, separator = self.settings["symbols"], self.settings["separator"]
        match self.settings["features"]:
            case "bigrams":
                return bigrams.cell(previous, ids, cells)
            case "trigrams":
                return trigrams.cell(torch.where(previous == separator, separator, before), previous, ids, cells)
        return ids

    def _sparsify(self, weights: Tensor) -> Tensor:
        """Drop all but the top-k weights and those below the minimum; what stays sums to one."""
        top_k = self.settings["top_k"] or self.slots
        kept = weights
        if top_k < self.slots:
            top, index = weights.topk(top_k, dim=-1)
            kept = torch.zeros_like(weights).scatter(-1, index, top)
        largest = kept.amax(dim=-1, keepdim=True)
        kept = kept * ((kept >= self.settings["minimum_weight"]) | (kept == largest))
        return kept / kept.sum(dim=-1, keepdim=True)  # type: ignore[no-any-return]


def _context(ids: Tensor, last: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The last but one and the last real token before each token ``[batch, tokens]``; the last two of all."""
    known = torch.cat([last, ids], dim=1)
    if real is None:
        return known[:, :-2], known[:, 1:-1], known[:, -2:]
    # the tokens with the two before them, and for every place of these the place of the newest real token before it
    places = torch.arange(known.shape[1] + 1, device=ids.device).expand(len(ids), -1)
    taken = torch.cat([torch.ones_like(last, dtype=torch.bool), real], dim=1)
    newest = torch.where(taken, places[:, :-1], 0).cummax(dim=1).values
    before = torch.cat([torch.zeros_like(newest[:, :1]), newest], dim=1)
    previous = known.gather(1, before)
    older = known.gather(1, before.gather(1, before))
    return older[:, 2:-1], previous[:, 2:-1], torch.stack([older[:, -1], previous[:, -1]], dim=1)
