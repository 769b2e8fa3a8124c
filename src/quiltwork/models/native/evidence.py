"""The prefix-evidence router: who is likely to have written this text, judged by its tokens so far.

For the tokens x_1..x_t of a sequence and hypotheses h (each party's histogram u_h, the public text's, and "none of
them"), naive Bayes over the prefix gives

    log P(h | x_1..x_t) = log prior_h + sum_{s<=t} lambda^(t-s) log u_h(x_s) / temperature + const

The router has no trained parameters; a party leaves it by the loss of one row. Its state is one number a hypothesis
and sequence, so it works beside a key-value cache.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from quiltwork.errors import InvalidOption
from quiltwork.evidence.posterior import PrefixPosterior


class EvidenceRouter(nn.Module):
    """Posterior over slots for every prefix of a sequence.

    Args:
        settings: ``{"public": bool, "floor": float | None, "weights": [slot weights], "temperature": float,
            "half_life": float | None, "top_k": int | None, "minimum_weight": float}``; ``weights`` has one entry a
            slot, the base first.
        vocabulary: number of tokens V.

    The buffer ``rows`` ``[public + parties, V]`` (float32) holds log u_h, the public row first when there is one.
    """

    rows: Tensor

    def __init__(self, settings: Mapping[str, Any], vocabulary: int) -> None:
        super().__init__()
        self.settings = dict(settings)
        self.slots = len(settings["weights"])
        rows = self.slots - 1 + int(settings["public"])
        self.register_buffer("rows", torch.zeros(rows, vocabulary))

    def _hypotheses(self) -> list[int]:
        """The slot that each hypothesis speaks for; the hypotheses are public, none of them, parties."""
        base = [0] * (int(self.settings["public"]) + int(self.settings["floor"] is not None))
        return [*base, *range(1, self.slots)]

    def posterior(self) -> PrefixPosterior:
        """The posterior that the rows and settings define."""
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
        )

    def forward(self, ids: Tensor, state: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mixing weights ``[batch, tokens, slots]`` and the state after the last token.

        Args:
            ids: int64 ``[batch, tokens]``.
            state: what an earlier call returned for the tokens before these, or None at the start.
            mask: bool ``[batch, tokens]``, False where a token is padding; None if none is.
        """
        posterior = self.posterior()
        if state is None:
            state = posterior.initial_state(ids.shape[0], ids.device)
        log_weights, state = posterior.advance(ids, state, mask)
        return self._sparsify(log_weights.exp().float()), state

    def _sparsify(self, weights: Tensor) -> Tensor:
        """Drop all but the top-k weights and those below the minimum; what stays sums to one."""
        top_k = self.settings["top_k"] or self.slots
        kept = weights
        if top_k < self.slots:
            top, index = weights.topk(top_k, dim=-1)
            kept = torch.zeros_like(weights).scatter(-1, index, top)
        largest = kept.amax(dim=-1, keepdim=True)
        kept = kept * ((kept >= self.settings["minimum_weight"]) | (kept == largest))
        return kept / kept.sum(dim=-1, keepdim=True)


def check_settings(*, temperature: float, half_life: float | None, minimum_weight: float) -> None:
    """Refuse settings outside their domain.

    Raises:
        InvalidOption: naming the setting.
    """
    if not temperature > 0:
        raise InvalidOption(
            f"temperature={temperature}", why="it divides log-likelihoods", mend="Choose a positive one."
        )
    if half_life is not None and not half_life > 0:
        raise InvalidOption(
            f"half_life={half_life}", why="it is a number of tokens", mend="Choose a positive one or None."
        )
    if not 0 <= minimum_weight < 1:
        raise InvalidOption(
            f"minimum_weight={minimum_weight}",
            why="it is compared with probabilities",
            mend="Choose one in [0, 1).",
        )
