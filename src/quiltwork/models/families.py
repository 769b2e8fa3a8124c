"""Families of dense causal language models, and the mixture-of-experts format that can hold their experts.

One row of ``FAMILIES`` says all that quiltwork must know of a family: how its feed-forward tensors are named, which
public mixture format has the same attention and norms, how that format names experts and router, and which config
fields differ. A further family is a further row.

Tensor names on disk are the per-expert ("original") layout, which transformers 4.57 and 5.x both read; the fused
layout of transformers 5 loads in 4.57 with random experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quiltwork.errors import CheckpointError, ExportError

Role = Literal["gate_proj", "up_proj", "down_proj"]
ROLES: tuple[Role, ...] = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class MoEFormat:
    """A mixture-of-experts checkpoint format of transformers.

    Attributes:
        model_type: ``model_type`` in config.json.
        architecture: class named in ``architectures``.
        expert: tensor name of one projection, with ``{layer}``, ``{expert}`` and ``{role}``.
        roles: this format's name for each projection.
        router: tensor name of the router's rows ``[experts, hidden]``, with ``{layer}``.
        count_field: config field that holds the number of experts.
        renormalises: ``"always"`` if the top-k weights are always rescaled to sum to one, ``"flag"`` if the
            config field ``norm_topk_prob`` decides.
        forbidden: config fields that must be false, since the format has no place for what they switch on.
        extra: further config fields.
    """

    model_type: str
    architecture: str
    expert: str
    roles: Mapping[Role, str]
    router: str
    count_field: str
    renormalises: Literal["always", "flag"]
    forbidden: tuple[str, ...] = ()
    extra: tuple[tuple[str, Any], ...] = ()

    def config(self, dense: Mapping[str, Any], *, experts: int, top_k: int, renormalise: bool) -> dict[str, Any]:
        """config.json of a mixture whose body is the dense model described by ``dense``.

        Raises:
            ExportError: the dense model or the router needs something that this format cannot express.
        """
        for field in self.forbidden:
            if dense.get(field):
                raise ExportError(
                    f"config field '{field}' of the base",
                    why=f"the {self.model_type} format has no tensors for it",
                    mend="Use the native format, which keeps the base's own layers.",
                )
        if self.renormalises == "always" and not renormalise and top_k < experts:
            raise ExportError(
                "a router that does not renormalise its top-k weights",
                why=f"the {self.model_type} format always rescales them to sum to one",
                mend="Compose with renormalise=True, with all experts active, or use the native format.",
            )
        config = dict(dense) | {
            "model_type": self.model_type,
            "architectures": [self.architecture],
            self.count_field: experts,
            "num_experts_per_tok": top_k,
            "output_router_logits": False,
            **dict(self.extra),
        }
        if self.renormalises == "flag":
            config["norm_topk_prob"] = renormalise and top_k < experts
        return config

    def dense_config(self, config: Mapping[str, Any], family: Family) -> dict[str, Any]:
        """config.json of the dense body of a mixture: the inverse of ``config``."""
        own = {
            self.count_field,
            "num_experts_per_tok",
            "output_router_logits",
            "norm_topk_prob",
            *dict(self.extra),
        }
        dense = {name: value for name, value in config.items() if name not in own}
        return dense | {"model_type": family.name, "architectures": [family.architecture]}


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
    """

    name: str
    architecture: str
    ffn: str
    norms: tuple[str, ...]
    defaults: tuple[tuple[str, Any], ...]
    moe: MoEFormat
    pre_norm: bool

    def ffn_name(self, layer: int, role: Role) -> str:
        """Tensor name of the dense model's projection ``role`` in ``layer``."""
        return self.ffn.format(layer=layer, role=role)

    def complete(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """``config`` with every field that the family's class would fill in."""
        full = dict(self.defaults) | dict(config)
        if full["num_key_value_heads"] is None:
            full["num_key_value_heads"] = full["num_attention_heads"]
        if "head_dim" in full and full["head_dim"] is None:
            full["head_dim"] = full["hidden_size"] // full["num_attention_heads"]
        return full

    def tensor_names(self, config: Mapping[str, Any]) -> list[str]:
        """Every tensor that a dense checkpoint with this config must hold (it may hold a tied head besides)."""
        attention = [f"self_attn.{letter}_proj" for letter in "qkvo"]
        parts = [f"{name}.weight" for name in (*attention, *self.norms)]
        parts += [f"{name}.bias" for name in attention if config.get("attention_bias")]
        parts += [f"mlp.{role}.bias" for role in ROLES if config.get("mlp_bias")]
        layers = range(int(config["num_hidden_layers"]))
        names = ["model.embed_tokens.weight", "model.norm.weight"]
        names += [] if config.get("tie_word_embeddings") else ["lm_head.weight"]
        names += [self.ffn_name(layer, role) for layer in layers for role in ROLES]
        return names + [f"model.layers.{layer}.{part}" for layer in layers for part in parts]


_DENSE_FFN = "model.layers.{layer}.mlp.{role}.weight"

FLEX_OLMO = MoEFormat(
    model_type="flex_olmo",
    architecture="FlexOlmoForCausalLM",
    expert="model.layers.{layer}.mlp.experts.{expert}.{role}.weight",
    roles={"gate_proj": "gate_proj", "up_proj": "up_proj", "down_proj": "down_proj"},
    router="model.layers.{layer}.mlp.gate.weight",
    count_field="num_experts",
    renormalises="flag",
    extra=(("router_aux_loss_coef", 0.01),),
)

MIXTRAL = MoEFormat(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    expert="model.layers.{layer}.block_sparse_moe.experts.{expert}.{role}.weight",
    roles={"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"},
    router="model.layers.{layer}.block_sparse_moe.gate.weight",
    count_field="num_local_experts",
    renormalises="always",
    forbidden=("attention_bias",),
    extra=(("router_aux_loss_coef", 0.001), ("router_jitter_noise", 0.0), ("sliding_window", None)),
)

_DEFAULTS: tuple[tuple[str, Any], ...] = (
    ("num_key_value_heads", None),
    ("hidden_act", "silu"),
    ("max_position_embeddings", 2048),
    ("attention_bias", False),
    ("tie_word_embeddings", False),
)

FAMILIES: Mapping[str, Family] = {
    "olmo2": Family(
        name="olmo2",
        architecture="Olmo2ForCausalLM",
        ffn=_DENSE_FFN,
        norms=(
            "self_attn.q_norm",
            "self_attn.k_norm",
            "post_attention_layernorm",
            "post_feedforward_layernorm",
        ),
        defaults=(
            *_DEFAULTS,
            ("rms_norm_eps", 1e-5),
            ("pad_token_id", 1),
            ("bos_token_id", None),
            ("eos_token_id", 50279),
        ),
        moe=FLEX_OLMO,
        pre_norm=False,
    ),
    "llama": Family(
        name="llama",
        architecture="LlamaForCausalLM",
        ffn=_DENSE_FFN,
        norms=("input_layernorm", "post_attention_layernorm"),
        defaults=(
            *_DEFAULTS,
            ("rms_norm_eps", 1e-6),
            ("head_dim", None),
            ("mlp_bias", False),
            ("pad_token_id", None),
            ("bos_token_id", 1),
            ("eos_token_id", 2),
        ),
        moe=MIXTRAL,
        pre_norm=True,
    ),
}


def family_of(config: Mapping[str, Any], *, where: str = "config.json") -> Family:
    """The family of a checkpoint, by the ``model_type`` of its config.

    Raises:
        CheckpointError: the family is not in the table.

    >>> family_of({"model_type": "olmo2"}).moe.model_type
    'flex_olmo'
    """
    name = config.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise CheckpointError(
            f"model_type {name!r} in {where}",
            why="quiltwork does not know this family of dense language models",
            mend=f"Use a base of one of these families: {', '.join(FAMILIES)}.",
        )
    return FAMILIES[name]
