"""``quiltwork_ensemble``: several whole models whose predicted probabilities are mixed.

    p(v | x_1..x_t) = sum_m w_m(x_1..x_t) p_m(v | x_1..x_t)

The weights w are uniform, or the posterior over members given how well each has predicted the prefix so far
(``likelihood``; online Bayes as in Branch-Train-Merge, arXiv 2208.03306), or the prefix-evidence posterior. Evidence
is known before any member runs, so only the selected members run, and each only as far as it is selected; uniform and
likelihood weights need every member.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Cache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from quiltwork.errors import InvalidOption
from quiltwork.models.evidence_router import EvidenceRouter, RouterState
from quiltwork.models.native.config import QuiltworkEnsembleConfig
from quiltwork.models.native.pasts import MemberPast
from quiltwork.models.slots import BASE_SLOT, slot_keys


def likelihood_weights(scores: Tensor, log_prior: Tensor, temperature: float, top_k: int | None) -> Tensor:
    """Posterior over members from their log-likelihoods of the prefix.

    Args:
        scores: ``[..., members]``, sum of log p_m(x_s | x_<s) over the prefix.
        log_prior: ``[members]``.
        temperature: divides the scores.
        top_k: keep only the k likeliest members, renormalised; None keeps all.

    Returns:
        Log-weights, same shape; minus infinity for members left out.

    >>> likelihood_weights(torch.tensor([0.0, 0.0]), torch.zeros(2), 1.0, None).exp()
    tensor([0.5000, 0.5000])
    """
    log_weights = log_prior + scores / temperature
    if top_k is not None and top_k < scores.shape[-1]:
        top, index = log_weights.topk(top_k, dim=-1)
        log_weights = torch.full_like(log_weights, -torch.inf).scatter(-1, index, top)
    return log_weights.log_softmax(dim=-1)


class MemberWeights(nn.Module):
    """Weights of members that have all run: uniform, or by likelihood of the prefix.

    Args:
        settings: ``{"weights": [prior weight of each member], "temperature": float, "top_k": int | None}``.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.settings = dict(settings)

    def forward(self, scores: Tensor) -> Tensor:
        """Weights ``[..., members]`` from the members' log-likelihoods of the prefix (zeros for uniform)."""
        prior = torch.tensor(self.settings["weights"], device=scores.device).log()
        settings = self.settings
        return likelihood_weights(scores, prior, settings["temperature"], settings["top_k"]).exp()


def _mix(log_probabilities: list[Tensor], log_weights: Tensor) -> Tensor:
    """log sum_m w_m p_m; ``log_weights`` is ``[..., members]``, each member's tensor ``[..., vocabulary]``."""
    if len(log_probabilities) == 1 and not bool(log_weights.any()):
        return log_probabilities[0]
    stacked = torch.stack(log_probabilities, dim=-1)
    return torch.logsumexp(stacked + log_weights.unsqueeze(-2), dim=-1)


@dataclass(frozen=True)
class _Row:
    """One sequence's past: its tokens, and what likelihood weights keep of them."""

    ids: Tensor
    scores: Tensor | None = None  # [members] log-likelihoods of the past (likelihood weights)
    last: Tensor | None = None  # [members, vocabulary] log-probabilities of the next token (likelihood weights)


class EnsembleCache(Cache):
    """The past of a batch: of each member (it may have run for some sequences only), of each sequence, of the router.

    Args:
        batch: number of sequences.
        members: number of members.
        config: of the members.
    """

    def __init__(self, batch: int, members: int, config: Any) -> None:
        super().__init__(layers=[])
        self.rows = [_Row(torch.zeros(0, dtype=torch.int64)) for _ in range(batch)]
        self.pasts = [MemberPast(config) for _ in range(members)]
        self.router: RouterState | None = None
        self.length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 - transformers' signature
        """Tokens seen, padding included."""
        return self.length

    @property
    def is_compileable(self) -> bool:
        """False: which members run depends on the text."""
        return False

    def _select(self, indices: list[int]) -> None:
        self.rows = [self.rows[i] for i in indices]
        self.pasts = [past.select(indices) for past in self.pasts]
        self.router = self.router.select(torch.tensor(indices)) if self.router is not None else None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams that beam search kept."""
        self._select(beam_idx.tolist())

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence of the batch."""
        self._select([i for i in range(len(self.rows)) for _ in range(repeats)])

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some sequences of the batch."""
        self._select(torch.arange(len(self.rows))[indices.cpu()].tolist())

    def crop(self, *_: Any, **__: Any) -> None:
        """Refused: the weights' state is a running sum that cannot be rewound."""
        raise InvalidOption(
            "cropping the cache of an ensemble",
            why="the weights' state is a running sum that cannot be rewound",
            mend="Generate without assisted (speculative) decoding.",
        )


class QuiltworkEnsembleForCausalLM(PreTrainedModel, GenerationMixin):
    """Mixture of whole models; see the module's docstring."""

    config_class = QuiltworkEnsembleConfig
    config: QuiltworkEnsembleConfig
    base_model_prefix = "members"
    _supports_sdpa = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = ["evidence"]  # noqa: RUF012 - the shape transformers asks for

    def __init__(self, config: QuiltworkEnsembleConfig) -> None:
        super().__init__(config)
        keys = slot_keys(config.parties)
        self.members = nn.ModuleDict({key: AutoModelForCausalLM.from_config(config.text_config) for key in keys})
        self.kind = config.router["kind"]
        self.evidence = EvidenceRouter(config.router) if self.kind == "evidence" else None
        self.weighting = MemberWeights(config.router) if self.kind != "evidence" else None
        self.post_init()  # type: ignore[no-untyped-call]
        self._adopt_tied_weights()

    def _adopt_tied_weights(self) -> None:
        """transformers collects tied weights from direct children only, and the members sit in a table."""
        for key, member in self.members.items():
            for target, source in (getattr(member, "all_tied_weights_keys", None) or {}).items():
                self.all_tied_weights_keys[f"members.{key}.{target}"] = f"members.{key}.{source}"

    def _init_weights(self, module: nn.Module) -> None:
        """Every tensor comes from the checkpoint; there is nothing to initialise."""

    def get_input_embeddings(self) -> nn.Module:
        """The base model's token embeddings."""
        return self.members[BASE_SLOT].get_input_embeddings()  # type: ignore[no-any-return, operator]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **_: Any,
    ) -> CausalLMOutputWithPast:
        """Log-probabilities ``[batch, tokens, vocabulary]`` (normalised logits) for ``input_ids`` ``[batch, tokens]``.

        Raises:
            InvalidOption: called without token ids, or with a foreign cache that already holds tokens.
        """
        if input_ids is None:
            raise InvalidOption(
                "inputs_embeds",
                why="the ensemble's weights read token ids",
                mend="Call the model with input_ids.",
            )
        if use_cache or past_key_values is not None:
            last = logits_to_keep if isinstance(logits_to_keep, int) and labels is None else 0
            logits, cache = self._cached(input_ids, attention_mask, past_key_values, last)
        else:
            logits, cache = self._parallel(input_ids, attention_mask), None
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        kept = logits if isinstance(keep, slice) and logits_to_keep == 0 else logits[:, keep]
        return CausalLMOutputWithPast(loss=loss, logits=kept, past_key_values=cache)

    # All sequences at once, no past.

    def _parallel(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        if self.evidence is not None:
            return self._parallel_selected(ids, mask)
        predictions = [
            member(input_ids=ids, attention_mask=mask).logits.log_softmax(-1) for member in self.members.values()
        ]
        return _mix(predictions, self._weights_of_prefix(ids, mask, predictions))

    def _weights_of_prefix(self, ids: Tensor, mask: Tensor | None, predictions: list[Tensor]) -> Tensor:
        """Log-weights ``[batch, tokens, members]`` where every member has run."""
        assert self.weighting is not None
        scores = torch.zeros(*ids.shape, len(predictions), device=ids.device)
        if self.kind == "likelihood":
            gained = [p[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1) for p in predictions]
            steps = torch.stack(gained, dim=-1)
            if mask is not None:
                # a token is evidence only if it and the token before it, which predicts it, are real
                steps = steps * (mask[:, 1:] * mask[:, :-1]).unsqueeze(-1)
            scores[:, 1:] = steps.cumsum(dim=1)
        return self.weighting(scores).log()  # type: ignore[no-any-return]

    def _parallel_selected(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        assert self.evidence is not None
        weights, _ = self.evidence(ids, None, mask.bool() if mask is not None else None)
        shape = (*ids.shape, self.config.vocab_size)
        mixed = torch.full(shape, -torch.inf, device=ids.device, dtype=self.dtype)
        for number, member in enumerate(self.members.values()):
            chosen = weights[..., number] > 0
            if mask is not None:
                chosen = chosen & mask.bool()
            rows = chosen.any(dim=1).nonzero().squeeze(-1)
            if not len(rows):
                continue
            # attention looks back only, so a member need not run past the last token it answers
            end = int(chosen[rows].any(dim=0).nonzero().max()) + 1
            part = mask[rows, :end] if mask is not None else None
            answer = member(input_ids=ids[rows, :end], attention_mask=part).logits.log_softmax(-1)
            answer = answer + weights[rows, :end, number].log().unsqueeze(-1).to(answer.dtype)
            mixed[rows, :end] = torch.logaddexp(mixed[rows, :end], answer)
        return mixed.masked_fill(mixed.isneginf().all(dim=-1, keepdim=True), 0.0)

    # Token by token, with a past.

    def _cached(self, ids: Tensor, mask: Tensor | None, cache: Any, keep: int) -> tuple[Tensor, EnsembleCache]:
        """Predictions ``[batch, tokens, vocabulary]``, where ``keep`` is given and nothing else asked the last ones."""
        if not isinstance(cache, EnsembleCache):
            if cache is not None and cache.get_seq_length() > 0:
                raise InvalidOption(
                    f"a {type(cache).__name__} that already holds tokens",
                    why="the ensemble keeps one cache a member and sequence",
                    mend="Start from an empty cache, or pass the cache that this model returned.",
                )
            cache = EnsembleCache(len(ids), len(self.members), self.config.text_config)
        real = None if mask is None or bool(mask[:, -ids.shape[1] :].all()) else mask[:, -ids.shape[1] :].bool()
        # likelihoods are of all tokens, and padding stands anywhere
        keep = 0 if self.kind == "likelihood" or real is not None else min(keep, ids.shape[1])
        new = [row if real is None else row[real[number]] for number, row in enumerate(ids)]
        cache.rows = [
            replace(row, ids=torch.cat([row.ids.to(ids), more])) for row, more in zip(cache.rows, new, strict=True)
        ]
        predicted = self._after(cache, ids, new, real, keep)
        logits = ids.new_zeros((len(ids), keep or ids.shape[1], self.config.vocab_size), dtype=self.dtype)
        for number, answer in predicted.items():
            logits[number, slice(None) if real is None else real[number]] = answer
        cache.length += ids.shape[1]
        return logits, cache

    def _after(
        self, cache: EnsembleCache, ids: Tensor, new: list[Tensor], real: Tensor | None, keep: int
    ) -> dict[int, Tensor]:
        """Predictions ``[tokens, vocabulary]`` after each new token that counts, for each sequence that has any."""
        rows = [number for number, more in enumerate(new) if len(more)]
        if self.evidence is None:
            answers = self._answers(cache, new, dict.fromkeys(range(len(cache.pasts)), rows), keep)
            return {r: _mix(list(answers[r].values()), self._score(cache, r, new[r], answers[r])) for r in rows}
        weights, cache.router = self.evidence(ids, cache.router, real)
        own = {r: weights[r] if real is None else weights[r, real[r]] for r in rows}
        own = {r: weight[-keep:] if keep else weight for r, weight in own.items()}
        weighty = {r: (weight > 0).any(dim=0).tolist() for r, weight in own.items()}
        wanted = {m: [r for r in rows if weighty[r][m]] for m in range(len(cache.pasts))}
        answers = self._answers(cache, new, wanted, keep)
        return {r: _mix(list(answers[r].values()), own[r][:, list(answers[r])].log().to(self.dtype)) for r in rows}

    def _answers(
        self, cache: EnsembleCache, new: list[Tensor], wanted: Mapping[int, list[int]], keep: int
    ) -> dict[int, dict[int, Tensor]]:
        """Log-probabilities ``[tokens, vocabulary]`` by sequence and by member, of the sequences that want it."""
        texts = [row.ids for row in cache.rows]
        found: dict[int, dict[int, Tensor]] = {}
        for number, (member, rows) in enumerate(zip(self.members.values(), wanted.values(), strict=True)):
            for row, logits in cache.pasts[number].run(member, texts, rows, keep).items():
                found.setdefault(row, {})[number] = logits[-(keep or len(new[row])) :].log_softmax(-1)
        return found

    def _score(self, cache: EnsembleCache, number: int, new: Tensor, answers: Mapping[int, Tensor]) -> Tensor:
        """Log-weights ``[tokens, members]`` after each new token, from what every member gave to it."""
        row, stacked = cache.rows[number], torch.stack(list(answers.values()))  # [members, tokens, vocabulary]
        scores = torch.zeros(stacked.shape[1], len(stacked), device=new.device)
        if self.kind == "likelihood":
            before = torch.cat([row.last[:, None], stacked[:, :-1]], dim=1) if row.last is not None else stacked[:, :-1]
            scored = new if row.last is not None else new[1:]
            gained = before.gather(-1, scored.expand(len(stacked), -1)[..., None]).squeeze(-1).T
            scores[len(new) - len(scored) :] = gained
            scores = scores.cumsum(dim=0) + (row.scores if row.scores is not None else 0)
            cache.rows[number] = replace(row, scores=scores[-1], last=stacked[:, -1])
        assert self.weighting is not None
        return self.weighting(scores).log()  # type: ignore[no-any-return]
