"""``quiltwork_ensemble``: several whole models whose predicted probabilities are mixed.

    p(v | x_1..x_t) = sum_m w_m(x_1..x_t) p_m(v | x_1..x_t)

The weights w are uniform, or the posterior over members given how well each has predicted the prefix so far
(``likelihood``; online Bayes as in Branch-Train-Merge, arXiv 2208.03306), or the prefix-evidence posterior. Evidence
is known before any member runs, so only the selected members run, and each only as far as it is selected; uniform and
likelihood weights need every member.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from quiltwork.errors import InvalidOption
from quiltwork.models.evidence_router import EvidenceRouter, RouterState
from quiltwork.models.native.config import QuiltworkEnsembleConfig
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
    stacked = torch.stack(log_probabilities, dim=-1)
    return torch.logsumexp(stacked + log_weights.unsqueeze(-2), dim=-1)


@dataclass
class _Row:
    """One sequence's past: its tokens, each member's cache of them, and the weights' state."""

    ids: Tensor
    caches: dict[int, DynamicCache] = field(default_factory=dict)
    router: RouterState | None = None
    scores: Tensor | None = None  # [members] log-likelihoods of the past (likelihood weights)
    last: Tensor | None = None  # [members, vocabulary] log-probabilities of the next token (likelihood weights)


class EnsembleCache(Cache):
    """Past of every sequence, kept apart, since each may have run other members."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.rows: list[_Row] = []
        self.length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002 - transformers' signature
        """Tokens seen, padding included."""
        return self.length

    @property
    def is_compileable(self) -> bool:
        """False: which members run depends on the text."""
        return False

    def _select(self, indices: list[int]) -> None:
        self.rows = [copy.deepcopy(self.rows[i]) for i in indices]

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
            logits, cache = self._cached(input_ids, attention_mask, past_key_values)
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

    # One sequence after the other, each with its own past.

    def _cached(self, ids: Tensor, mask: Tensor | None, cache: Any) -> tuple[Tensor, EnsembleCache]:
        if not isinstance(cache, EnsembleCache):
            if cache is not None and cache.get_seq_length() > 0:
                raise InvalidOption(
                    f"a {type(cache).__name__} that already holds tokens",
                    why="the ensemble keeps one cache a member and sequence",
                    mend="Start from an empty cache, or pass the cache that this model returned.",
                )
            cache = EnsembleCache()
            cache.rows = [_Row(ids[:0, 0]) for _ in range(len(ids))]
        logits = ids.new_zeros((*ids.shape, self.config.vocab_size), dtype=self.dtype)
        for number, row in enumerate(cache.rows):
            real = slice(None) if mask is None else mask[number, -ids.shape[1] :].bool()
            new = ids[number, real]
            if len(new):
                logits[number, real] = self._extend(row, new)
        cache.length += ids.shape[1]
        return logits, cache

    def _extend(self, row: _Row, new: Tensor) -> Tensor:
        """Predictions ``[tokens, vocabulary]`` after each of the ``new`` tokens of one sequence."""
        start = len(row.ids)
        row.ids = torch.cat([row.ids, new])
        if self.evidence is not None:
            weights, row.router = self.evidence(new[None], row.router, None)
            log_weights = weights[0].log()
            selected = [m for m in range(len(self.members)) if bool((weights[0, :, m] > 0).any())]
            predictions = {m: self._catch_up(row, m, start) for m in selected}
            return _mix([predictions[m] for m in selected], log_weights[:, selected].to(self.dtype))
        answers = [self._catch_up(row, m, start) for m in range(len(self.members))]
        return _mix(answers, self._score_row(row, new, answers))

    def _catch_up(self, row: _Row, member: int, start: int) -> Tensor:
        """Run a member on the tokens it has not seen; log-probabilities after each token from ``start`` on."""
        cache = row.caches.setdefault(member, DynamicCache(config=self.config.text_config))
        seen = cache.get_seq_length()
        model = list(self.members.values())[member]
        output = model(input_ids=row.ids[None, seen:], past_key_values=cache, use_cache=True)
        return output.logits[0, start - seen :].log_softmax(-1)  # type: ignore[no-any-return]

    def _score_row(self, row: _Row, new: Tensor, answers: list[Tensor]) -> Tensor:
        scores = torch.zeros(len(new), len(answers), device=new.device)
        if self.kind == "likelihood":
            stacked = torch.stack(answers)  # [members, tokens, vocabulary]
            before = torch.cat([row.last[:, None], stacked[:, :-1]], dim=1) if row.last is not None else stacked[:, :-1]
            scored = new if row.last is not None else new[1:]
            gained = before.gather(-1, scored.expand(len(answers), -1)[..., None]).squeeze(-1).T
            scores[len(new) - len(scored) :] = gained
            scores = scores.cumsum(dim=0) + (row.scores if row.scores is not None else 0)
            row.scores, row.last = scores[-1], stacked[:, -1]
        assert self.weighting is not None
        return self.weighting(scores).log()  # type: ignore[no-any-return]
