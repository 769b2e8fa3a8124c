"""Families of dense causal language models, and the mixture-of-experts format that can hold their experts.

One row of ``FAMILIES`` says all that quiltwork must know of a family: how its tensors are named, which public mixture
format has the same attention and norms (models/moe_formats.py), and what its class assumes where config.json is silent.
A further family is a further row.

Tensor names on disk are the per-expert ("original") layout, which transformers 4.57 and 5.x both read; the fused
layout of transformers 5 loads in 4.57 with random experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from quiltwork.errors import CheckpointError
from quiltwork.models.moe_formats import (
    FLEX_OLMO,
    FORMATS,
    MIXTRAL,
    QWEN2_MOE,
    QWEN3_MOE,
    ROLES,
    MoEFormat,
    Role,
)

__all__ = ["FAMILIES", "ROLES", "Family", "MoEFormat", "Role", "family_of", "format_of"]


@dataclass(frozen=True)
class Family:
    """A family of dense checkpoints.

    Attributes:
        name: ``model_type`` of the dense checkpoints.
        architecture: class named in ``architectures``.
        ffn: tensor name of one feed-forward projection, with ``{layer}`` and ``{role}``.
        norms: a layer's norms, after ``model.layers.{layer}.``.
        defaults: what transformers' class of the family assumes for a config field that is left out. Mixture formats
            assume otherwise, so a config is completed before it becomes another format's.
        moe: the mixture format with the same body.
        pre_norm: True if the feed-forward block reads a normalised residual stream. Then the scale of its output
            matters and top-k weights that do not sum to one change the model.
        biases: attention projections that always have a bias.
        ignores: config fields that the family's class does not read and the format's does; they are dropped.
        identity: config fields that decide what the model computes in this family only.
        windowed: True if ``use_sliding_window`` and ``max_window_layers`` decide which layers see a window only.
    """

    name: str
    architecture: str
    ffn: str
    norms: tuple[str, ...]
    defaults: tuple[tuple[str, Any], ...]
    moe: MoEFormat
    pre_norm: bool
    biases: tuple[str, ...] = ()
    ignores: tuple[str, ...] = ()
    identity: tuple[str, ...] = ()
    windowed: bool = False

    def ffn_name(self, layer: int, role: Role) -> str:
        """Tensor name of the dense model's projection ``role`` in ``layer``."""
        return self.ffn.format(layer=layer, role=role)

    def complete(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """``config`` with every field that the family's class would fill in, and none that it would not read."""
        foreign = self.moe.fields | set(self.ignores)
        full = dict(self.defaults) | {name: value for name, value in config.items() if name not in foreign}
        if full["num_key_value_heads"] is None:
            full["num_key_value_heads"] = full["num_attention_heads"]
        if "head_dim" in full and full["head_dim"] is None:
            full["head_dim"] = full["hidden_size"] // full["num_attention_heads"]
        return full | (_windows(full) if self.windowed else {})

    def tensor_names(self, config: Mapping[str, Any]) -> list[str]:
        """Every tensor that a dense checkpoint with this config must hold (it may hold a tied head besides)."""
        layers = range(int(config["num_hidden_layers"]))
        names = [*self.body_names(config), *(self.ffn_name(layer, role) for layer in layers for role in ROLES)]
        return names + [f"model.layers.{n}.mlp.{role}.bias" for n in layers for role in ROLES if config.get("mlp_bias")]

    def body_names(self, config: Mapping[str, Any]) -> list[str]:
        """Those of them that lie outside the feed-forward blocks."""
        attention = [f"self_attn.{letter}_proj" for letter in "qkvo"]
        parts = [f"{name}.weight" for name in (*attention, *self.norms)]
        parts += [f"{name}.bias" for name in (attention if config.get("attention_bias") else self.biases)]
        names = ["model.embed_tokens.weight", "model.norm.weight"]
        names += [] if config.get("tie_word_embeddings") else ["lm_head.weight"]
        layers = range(int(config["num_hidden_layers"]))
        return names + [f"model.layers.{layer}.{part}" for layer in layers for part in parts]


def _windows(full: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say which layers see a window only, written one way.

    Where no layer does, the class reads neither the window nor its switch, whatever they say.
    """
    layers = int(full["num_hidden_layers"])
    window = full["sliding_window"] if full["use_sliding_window"] else None
    after = full["max_window_layers"]
    plain = ["full_attention"] * layers
    usual = [*plain[:after], *["sliding_attention"] * (layers - after)] if layers > after else plain
    types = list(full.get("layer_types") or usual) if window is not None else plain
    if "sliding_attention" not in types:
        window = None
    return {"use_sliding_window": window is not None, "sliding_window": window, "layer_types": types}


_DENSE_FFN = "model.layers.{layer}.mlp.{role}.weight"
_PRE_NORMS = ("input_layernorm", "post_attention_layernorm")
_HEAD_NORMS = ("self_attn.q_norm", "self_attn.k_norm")

_DEFAULTS: tuple[tuple[str, Any], ...] = (("hidden_act", "silu"), ("tie_word_embeddings", False))
_QWEN_DEFAULTS: tuple[tuple[str, Any], ...] = (
    *_DEFAULTS,
    ("num_key_value_heads", 32),
    ("max_position_embeddings", 32768),
    ("rms_norm_eps", 1e-6),
    ("use_sliding_window", False),
    ("sliding_window", 4096),
    ("max_window_layers", 28),
    ("pad_token_id", None),
    ("bos_token_id", None),
    ("eos_token_id", None),
)

OLMO2 = Family(
    name="olmo2",
    architecture="Olmo2ForCausalLM",
    ffn=_DENSE_FFN,
    norms=(*_HEAD_NORMS, "post_attention_layernorm", "post_feedforward_layernorm"),
    defaults=(
        *_DEFAULTS,
        ("num_key_value_heads", None),
        ("max_position_embeddings", 2048),
        ("attention_bias", False),
        ("rms_norm_eps", 1e-5),
        ("pad_token_id", 1),
        ("bos_token_id", None),
        ("eos_token_id", 50279),
    ),
    moe=FLEX_OLMO,
    pre_norm=False,
)

LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    ffn=_DENSE_FFN,
    norms=_PRE_NORMS,
    defaults=(
        *_DEFAULTS,
        ("num_key_value_heads", None),
        ("max_position_embeddings", 2048),
        ("attention_bias", False),
        ("rms_norm_eps", 1e-6),
        ("head_dim", None),
        ("mlp_bias", False),
        ("pad_token_id", None),
        ("bos_token_id", 1),
        ("eos_token_id", 2),
    ),
    moe=MIXTRAL,
    pre_norm=True,
    ignores=("sliding_window",),
)

MISTRAL = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    ffn=_DENSE_FFN,
    norms=_PRE_NORMS,
    defaults=(
        *_DEFAULTS,
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 131072),
        ("rms_norm_eps", 1e-6),
        ("head_dim", None),
        ("sliding_window", 4096),
        ("pad_token_id", None),
        ("bos_token_id", 1),
        ("eos_token_id", 2),
    ),
    moe=MIXTRAL,
    pre_norm=True,
    ignores=("attention_bias", "mlp_bias"),
    identity=("sliding_window",),
)

QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    ffn=_DENSE_FFN,
    norms=_PRE_NORMS,
    defaults=_QWEN_DEFAULTS,
    moe=QWEN2_MOE,
    pre_norm=True,
    biases=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ignores=("attention_bias", "mlp_bias"),
    identity=("sliding_window", "layer_types"),
    windowed=True,
)

QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    ffn=_DENSE_FFN,
    norms=(*_PRE_NORMS, *_HEAD_NORMS),
    defaults=(*_QWEN_DEFAULTS, ("head_dim", 128), ("attention_bias", False)),
    moe=QWEN3_MOE,
    pre_norm=True,
    ignores=("mlp_bias",),
    identity=("sliding_window", "layer_types"),
    windowed=True,
)

FAMILIES: Mapping[str, Family] = {family.name: family for family in (OLMO2, LLAMA, MISTRAL, QWEN2, QWEN3)}


_NATIVE = {
    "quiltwork_moe": "it is a mixture in quiltwork's own layout, and a base is a dense model or a mixture in a public "
    "format",
    "quiltwork_ensemble": "it is several whole models in quiltwork's own layout, and a base is one model",
}
_PORTABLE = (
    "Start from the base that it was composed on; or compose its parties' ffn experts with --layout portable, which "
    "plain rows of equal weight allow (learned_rows, prompt_rows, residual_lda --no-offsets), and start from that."
)


def family_of(config: Mapping[str, Any], *, where: str = "config.json") -> Family:
    """The family of a checkpoint, by the ``model_type`` of its config; that of its body if it is a mixture.

    Raises:
        CheckpointError: neither the families nor the mixture formats have it.

    >>> family_of({"model_type": "olmo2"}).moe.model_type, family_of({"model_type": "mixtral"}).name
    ('flex_olmo', 'mistral')
    """
    name = config.get("model_type")
    form = format_of(config)
    if form is not None:
        return FAMILIES[form.twin]
    if isinstance(name, str) and name in _NATIVE:
        raise CheckpointError(f"the composed model of {where}", why=_NATIVE[name], mend=_PORTABLE)
    if not isinstance(name, str) or name not in FAMILIES:
        raise CheckpointError(
            f"model_type {name!r} in {where}",
            why="quiltwork does not know this family of language models",
            mend=f"Use a base of one of these families: {', '.join(FAMILIES)}; or a mixture: {', '.join(FORMATS)}.",
        )
    if name == "mistral" and _windows_differ(config):
        raise CheckpointError(
            f"layer_types in {where}",
            why="some layers see a window only and others do not: that is a Ministral model, whatever model_type says",
            mend=f"Use a base of one of these families: {', '.join(FAMILIES)}.",
        )
    return FAMILIES[name]


def _windows_differ(config: Mapping[str, Any]) -> bool:
    """Whether a Mistral config, whose class has one window for all layers, names layers without it."""
    types = config.get("layer_types")
    return isinstance(types, list) and "full_attention" in types and config.get("sliding_window", 4096) is not None


def format_of(config: Mapping[str, Any]) -> MoEFormat | None:
    """The mixture format of a checkpoint, or None if it is no mixture that quiltwork knows.

    >>> format_of({"model_type": "llama"}) is None
    True
    """
    name = config.get("model_type")
    return FORMATS.get(name) if isinstance(name, str) else None
