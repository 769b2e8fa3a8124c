"""config.json of the native formats.

Slot 0 is always the base model; slots 1..n are the parties in the order of ``parties``. The dense model that all slots
share in architecture is described by ``text_config``, the name under which transformers looks for the sizes of the
key-value cache.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig


class _SlottedConfig(PretrainedConfig):
    """What both native formats have in common."""

    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012 - the shape transformers asks for

    def __init__(
        self,
        text_config: dict[str, Any] | PretrainedConfig | None = None,
        parties: list[str] | None = None,
        router: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        elif text_config is None:
            # transformers compares a config with its class's defaults when it saves one
            text_config = AutoConfig.for_model("olmo2")
        self.text_config = text_config
        self.parties = list(parties or [])
        self.router = dict(router or {})
        for token in ("bos_token_id", "eos_token_id", "pad_token_id"):
            kwargs.setdefault(token, getattr(text_config, token, None))
        kwargs.setdefault("tie_word_embeddings", False)
        super().__init__(**kwargs)

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary."""
        return int(self.text_config.vocab_size)


class QuiltworkMoEConfig(_SlottedConfig):
    """One body with ``1 + len(parties)`` feed-forward experts in each layer.

    With ``own`` the base is a mixture itself: ``{"experts", "top_k", "renormalise"}`` of the experts that it brings,
    which come before those of the parties (see ``OwnExperts``).

    ``widths`` holds the intermediate neurons of each party's experts; None gives all of them the base's.

    ``router`` is ``{"kind": "rows", "top_k", "renormalise", "bias"}`` or
    ``{"kind": "evidence", ...}`` (see ``EvidenceRouter``).
    """

    model_type = "quiltwork_moe"

    def __init__(self, own: dict[str, Any] | None = None, widths: list[int] | None = None, **kwargs: Any) -> None:
        self.own = own
        self.widths = widths
        super().__init__(**kwargs)


class QuiltworkEnsembleConfig(_SlottedConfig):
    """``1 + len(parties)`` whole models.

    ``router`` is ``{"kind": "uniform" | "likelihood" | "evidence", "top_k", ...}``.
    """

    model_type = "quiltwork_ensemble"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
