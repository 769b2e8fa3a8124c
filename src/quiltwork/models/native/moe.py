"""``quiltwork_moe``: one body, several feed-forward experts a layer, a router of rows, of prefix evidence, or of both.

The body is the base model as transformers builds it; only the FFN of each layer is replaced by an ``ExpertBank``.
With rows each layer routes on its own input. With evidence the weights are computed once from the token ids and serve
every layer, and the router's state travels with the key-value cache, one vector a sequence. With both each layer adds
its rows' logits to the logarithms of these weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from quiltwork.errors import InvalidOption
from quiltwork.models.bank import ExpertBank, Mixing, RowRouter
from quiltwork.models.evidence_router import EvidenceRouter, RouterState
from quiltwork.models.narrow import resized
from quiltwork.models.native.config import QuiltworkMoEConfig
from quiltwork.models.slots import BASE_SLOT, slot_key, slot_keys


class RoutedCache(DynamicCache):
    """A key-value cache that carries the evidence router's state."""

    router_state: RouterState | None = None

    @property
    def is_compileable(self) -> bool:
        """False: the state grows out of Python control flow."""
        return False

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams that beam search kept."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence of the batch."""
        super().batch_repeat_interleave(repeats)
        self._select(torch.arange(self._batch()).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some sequences of the batch."""
        super().batch_select_indices(indices)
        self._select(torch.arange(self._batch())[indices.cpu()])

    def _batch(self) -> int:
        return len(self.router_state.last) if self.router_state is not None else 0

    def _select(self, indices: Tensor) -> None:
        if self.router_state is not None:
            self.router_state = self.router_state.select(indices)

    def crop(self, *_: Any, **__: Any) -> None:
        """Refused: evidence is summed up and cannot be rewound."""
        raise InvalidOption(
            "cropping the cache of an evidence-routed model",
            why="the router's state is a running sum that cannot be rewound",
            mend="Generate without assisted (speculative) decoding.",
        )


class QuiltworkMoEForCausalLM(PreTrainedModel, GenerationMixin):
    """A dense causal language model whose FFNs are mixtures; see the module's docstring."""

    config_class = QuiltworkMoEConfig
    config: QuiltworkMoEConfig
    base_model_prefix = "body"
    supports_gradient_checkpointing = False
    _supports_sdpa = True
    _supports_attention_backend = True
    _keep_in_fp32_modules_strict = ["evidence"]  # noqa: RUF012 - the shape transformers asks for

    def __init__(self, config: QuiltworkMoEConfig) -> None:
        super().__init__(config)
        self.body = AutoModelForCausalLM.from_config(config.text_config)
        settings = dict(config.router)
        self._rows: dict[str, Any] | None = settings if settings["kind"] == "rows" else settings.get("rows")
        evidence = settings if settings["kind"] == "evidence" else settings.get("evidence")
        self.evidence = EvidenceRouter(evidence) if evidence is not None else None
        self.mixing = Mixing()
        for layer in self.body.model.layers:
            layer.mlp = self._bank(layer.mlp, settings)
        self.post_init()  # type: ignore[no-untyped-call]

    def _bank(self, ffn: torch.nn.Module, settings: dict[str, Any]) -> ExpertBank:
        own = self.config.own
        first = 1 if own is None else int(own["experts"])
        keys = slot_keys(self.config.parties, first)
        slots, hidden = len(keys), self.config.text_config.hidden_size
        widths = dict(zip(map(slot_key, self.config.parties), self.config.widths or (), strict=False))
        experts = {key: ffn if key == BASE_SLOT else resized(ffn, widths.get(key)) for key in keys}
        rows = self._rows
        if rows is None:
            within = None
            if own is not None:
                within = RowRouter(hidden, first, top_k=own["top_k"], renormalise=own["renormalise"], bias=False)
            return ExpertBank(experts, self.mixing, own=within)
        both = self.evidence is not None
        top_k = min(rows["top_k"] or slots, slots)
        weights = [rows["weights"][0]] * first + rows["weights"][1:]
        router = RowRouter(
            hidden,
            slots,
            top_k=top_k,
            renormalise=rows["renormalise"],
            bias=rows["bias"],
            weights=weights,
            share=settings["share"] if both else 1.0,
            minimum_weight=settings["evidence"]["minimum_weight"] if both else 0.0,
        )
        return ExpertBank(experts, router, self.mixing if both else None)

    def _init_weights(self, module: torch.nn.Module) -> None:
        """Every tensor comes from the checkpoint; there is nothing to initialise."""

    def get_input_embeddings(self) -> torch.nn.Module:
        """The body's token embeddings."""
        return self.body.get_input_embeddings()  # type: ignore[no-any-return]

    def get_output_embeddings(self) -> torch.nn.Module:
        """The body's language-model head."""
        return self.body.get_output_embeddings()  # type: ignore[no-any-return]

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits ``[batch, tokens, vocabulary]`` for ``input_ids`` ``[batch, tokens]``.

        Raises:
            InvalidOption: an evidence-routed model is called without token ids, or with a foreign cache.
        """
        if self.evidence is not None:
            past_key_values = self._route(input_ids, attention_mask, past_key_values, bool(use_cache))
        try:
            output = self.body(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                labels=labels,
                use_cache=use_cache,
                logits_to_keep=logits_to_keep,
                **kwargs,
            )
        finally:
            self.mixing.weights = self.mixing.log_prior = None
        return output  # type: ignore[no-any-return]

    def _route(self, ids: Tensor | None, mask: Tensor | None, cache: Any, use_cache: bool) -> Any:
        """Set what the layers mix by; returns the cache, with the router's state in it."""
        if ids is None:
            raise InvalidOption(
                "inputs_embeds",
                why="the evidence router reads token ids",
                mend="Call the model with input_ids.",
            )
        assert self.evidence is not None
        if not isinstance(cache, RoutedCache):
            if cache is not None and cache.get_seq_length() > 0:
                raise InvalidOption(
                    f"a {type(cache).__name__} that already holds tokens",
                    why="the evidence router has not seen them",
                    mend="Start from an empty cache, or pass the cache that this model returned.",
                )
            wanted = use_cache or cache is not None
            cache = RoutedCache(config=self.config.get_text_config(decoder=True)) if wanted else None
        state = cache.router_state if cache is not None and cache.get_seq_length() else None
        real = mask[:, -ids.shape[1] :].bool() if mask is not None and mask.dim() == 2 else None
        if self._rows is None:
            self.mixing.weights, state = self.evidence(ids, state, real)
        else:
            self.mixing.log_prior, state = self.evidence.log_posterior(ids, state, real)
        if cache is not None:
            cache.router_state = state
        return cache
