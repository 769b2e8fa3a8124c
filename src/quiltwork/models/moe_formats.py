"""Public mixture-of-experts formats, and what a dense model must say to be written in one of them.

A format has the attention and norms of one or more dense families, so a mixture whose body is such a model fits it as
it is: the feed-forward tensors get the format's per-expert names, the router's rows one name a layer, and the config
the format's fields. Three things differ from format to format and change what the model computes if they are missed:
whether the top-k weights are rescaled to sum to one, the defaults of fields that are left out, and tensors that have no
use here but must be there (the shared expert of Qwen2-MoE, which has width zero).

Whatever the format's config overwrites of the dense one is kept in the field ``quiltwork``, so the dense config comes
back exactly:

    dense_config(config(dense)) == dense
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from quiltwork.errors import CheckpointError, ExportError

Role = Literal["gate_proj", "up_proj", "down_proj"]
ROLES: tuple[Role, ...] = ("gate_proj", "up_proj", "down_proj")

ORIGIN = "quiltwork"
"""Config field of a portable composite that says what its base was."""

ROUTING = "quiltwork_routing"
"""Config field of a portable composite whose rows were computed, that says of what."""


@dataclass(frozen=True)
class Selection:
    """Which experts of a mixture answer a token.

    Attributes:
        experts: number of experts.
        top_k: how many of them answer a token.
        renormalise: whether their weights are rescaled to sum to one.
    """

    experts: int
    top_k: int
    renormalise: bool


@dataclass(frozen=True)
class MoEFormat:
    """A mixture-of-experts checkpoint format of transformers.

    Attributes:
        model_type: ``model_type`` in config.json.
        architecture: class named in ``architectures``.
        twin: the dense family that has the same body and assumes nothing more; a mixture that is used as a base is
            read as this family with several experts.
        expert: tensor name of one projection, with ``{layer}``, ``{expert}`` and ``{role}``.
        roles: this format's name for each projection.
        router: tensor name of the router's rows ``[experts, hidden]``, with ``{layer}``.
        count_field: config field that holds the number of experts.
        renormalises: ``"always"`` if the top-k weights are always rescaled to sum to one, ``"flag"`` if the
            config field ``norm_topk_prob`` decides.
        defaults: what transformers' class of the format assumes for a field that is left out.
        width_field: config field that repeats the width of an expert, or None.
        forbidden: config fields that must be false, since the format has no place for what they switch on.
        extra: further config fields.
        idle: tensors without effect that the classes ask for: name with ``{layer}``, and shape, in which None stands
            for the hidden size.
    """

    model_type: str
    architecture: str
    twin: str
    expert: str
    roles: Mapping[Role, str]
    router: str
    count_field: str
    renormalises: Literal["always", "flag"]
    defaults: tuple[tuple[str, Any], ...]
    width_field: str | None = None
    forbidden: tuple[str, ...] = ()
    extra: tuple[tuple[str, Any], ...] = ()
    idle: tuple[tuple[str, tuple[int | None, ...]], ...] = ()

    @property
    def fields(self) -> frozenset[str]:
        """Config fields that belong to the mixture and not to its body."""
        own = {*_COUNTS, "num_experts_per_tok", "output_router_logits", "norm_topk_prob", ORIGIN, ROUTING}
        return frozenset(own | set(dict(self.extra)) | ({self.width_field} if self.width_field else set()))

    def expert_name(self, layer: int, expert: int, role: Role) -> str:
        """Tensor name of an expert's projection."""
        return self.expert.format(layer=layer, expert=expert, role=self.roles[role])

    def idle_shapes(self, layer: int, hidden: int) -> dict[str, tuple[int, ...]]:
        """Names and shapes of a layer's tensors without effect; they hold zeros."""
        return {
            name.format(layer=layer): tuple(hidden if size is None else size for size in shape)
            for name, shape in self.idle
        }

    def config(
        self,
        dense: Mapping[str, Any],
        *,
        experts: int,
        top_k: int,
        renormalise: bool,
        own: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """config.json of a mixture whose body is the dense model described by ``dense``.

        Args:
            dense: config.json of the body.
            experts: number of experts, the base's own included.
            top_k: how many of them answer a token.
            renormalise: whether their weights are rescaled to sum to one.
            own: how the experts of a base that is a mixture answer (``OwnExperts.rule``), which this keeps.

        Raises:
            ExportError: the dense model or the router needs something that this format cannot express.
        """
        self._require_room(dense)
        if self.renormalises == "always" and not renormalise and top_k < experts:
            raise ExportError(
                "a router that does not renormalise its top-k weights",
                why=f"the {self.model_type} format always rescales them to sum to one",
                mend="Compose with renormalise=True, with all experts active, or use the native format.",
            )
        new = {
            "model_type": self.model_type,
            "architectures": [self.architecture],
            self.count_field: experts,
            "num_experts_per_tok": top_k,
            "output_router_logits": False,
            **dict(self.extra),
        }
        if self.width_field:
            new[self.width_field] = dense["intermediate_size"]
        if self.renormalises == "flag":
            new["norm_topk_prob"] = renormalise and top_k < experts
        origin = {"base": {name: dense[name] for name in sorted(new) if name in dense}}
        return dict(dense) | new | {ORIGIN: origin | ({"own": dict(own)} if own is not None else {})}

    def dense_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """config.json of the dense body of a mixture that quiltwork wrote: the inverse of ``config``.

        Raises:
            KeyError: the config does not say what its base was.
        """
        dense = {name: value for name, value in config.items() if name not in self.fields}
        return dense | dict(config[ORIGIN]["base"])

    def body_config(self, config: Mapping[str, Any], architecture: str) -> dict[str, Any]:
        """config.json of the body of any mixture in this format, read as the format's dense twin.

        Raises:
            ExportError: the body has something that the twin has not.
        """
        full = dict(self.defaults) | dict(config)
        self._require_room(full)
        dense = {name: value for name, value in full.items() if name not in self.fields}
        width = {"intermediate_size": full[self.width_field]} if self.width_field else {}
        return dense | {"model_type": self.twin, "architectures": [architecture]} | width

    def selection(self, config: Mapping[str, Any], where: str) -> Selection:
        """How many experts a checkpoint in this format has, and how they answer.

        Args:
            config: config.json as it is.
            where: whose it is, for the message.

        Raises:
            CheckpointError: a number is missing or impossible, or some layers are no mixtures, or the experts are not
                alone (a shared expert answers beside them).
        """
        # a class whose attribute has two names saves either
        named = [config[name] for name in _COUNTS if name in config]
        stated = {self.count_field: named[-1]} if named else {}
        config = dict(self.defaults) | stated | dict(config)
        experts, top_k = config[self.count_field], config["num_experts_per_tok"]
        if not _count(experts) or not _count(top_k) or top_k > experts:
            raise CheckpointError(
                f"config fields '{self.count_field}' and 'num_experts_per_tok' in {where}",
                why=f"they are {experts!r} and {top_k!r}, and each token needs one or more of the experts",
                mend="Fetch the checkpoint again.",
            )
        for name, value in self.extra:
            if name in _STRUCTURE and config.get(name, value) != value:
                raise CheckpointError(
                    f"config field '{name}' in {where}",
                    why=f"it is {config[name]!r}, and quiltwork extends mixtures in which every layer has experts "
                    "and nothing besides them",
                    mend="Use a base whose layers are plain mixtures, or a dense base.",
                )
        renormalise = self.renormalises == "always" or bool(config.get("norm_topk_prob", False))
        return Selection(int(experts), int(top_k), renormalise)

    def _require_room(self, body: Mapping[str, Any]) -> None:
        for field in self.forbidden:
            if body.get(field):
                raise ExportError(
                    f"config field '{field}' of the base",
                    why=f"the {self.model_type} format has no tensors for it"
                    if field.endswith("bias")
                    else f"the classes of the {self.model_type} format apply it otherwise than the base's",
                    mend="Use the native format, which keeps the base's own layers.",
                )


_COUNTS = ("num_experts", "num_local_experts")
_STRUCTURE = ("decoder_sparse_step", "mlp_only_layers", "shared_expert_intermediate_size", "qkv_bias")


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_SAME: Mapping[Role, str] = {role: role for role in ROLES}
_MLP_EXPERT = "model.layers.{layer}.mlp.experts.{expert}.{role}.weight"
_MLP_ROUTER = "model.layers.{layer}.mlp.gate.weight"

FLEX_OLMO = MoEFormat(
    model_type="flex_olmo",
    architecture="FlexOlmoForCausalLM",
    twin="olmo2",
    expert=_MLP_EXPERT,
    roles=_SAME,
    router=_MLP_ROUTER,
    count_field="num_experts",
    renormalises="flag",
    defaults=(
        ("num_key_value_heads", None),
        ("max_position_embeddings", 4096),
        ("rms_norm_eps", 1e-6),
        ("rope_theta", 500000.0),
        ("pad_token_id", 100277),
        ("bos_token_id", None),
        ("eos_token_id", 100257),
        ("num_experts", 7),
        ("num_experts_per_tok", 5),
    ),
    extra=(("router_aux_loss_coef", 0.01),),
)

MIXTRAL = MoEFormat(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    twin="mistral",
    expert="model.layers.{layer}.block_sparse_moe.experts.{expert}.{role}.weight",
    roles={"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"},
    router="model.layers.{layer}.block_sparse_moe.gate.weight",
    count_field="num_local_experts",
    renormalises="always",
    defaults=(
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 131072),
        ("rms_norm_eps", 1e-5),
        ("rope_theta", 1000000.0),
        ("sliding_window", None),
        ("pad_token_id", None),
        ("bos_token_id", 1),
        ("eos_token_id", 2),
        ("num_local_experts", 8),
        ("num_experts_per_tok", 2),
    ),
    forbidden=("attention_bias",),
    extra=(("router_aux_loss_coef", 0.001), ("router_jitter_noise", 0.0)),
)

_QWEN_DEFAULTS: tuple[tuple[str, Any], ...] = (
    ("max_position_embeddings", 32768),
    ("rms_norm_eps", 1e-6),
    ("rope_theta", 10000.0),
    ("use_sliding_window", False),
    ("pad_token_id", None),
    ("bos_token_id", None),
    ("eos_token_id", None),
)
_QWEN_LAYERS: tuple[tuple[str, Any], ...] = (
    ("decoder_sparse_step", 1),
    ("mlp_only_layers", []),
    ("router_aux_loss_coef", 0.001),
)

QWEN2_MOE = MoEFormat(
    model_type="qwen2_moe",
    architecture="Qwen2MoeForCausalLM",
    twin="qwen2",
    expert=_MLP_EXPERT,
    roles=_SAME,
    router=_MLP_ROUTER,
    count_field="num_experts",
    renormalises="flag",
    defaults=(
        *_QWEN_DEFAULTS,
        ("num_key_value_heads", 16),
        ("num_experts", 60),
        ("num_experts_per_tok", 4),
        ("moe_intermediate_size", 1408),
        ("shared_expert_intermediate_size", 5632),
    ),
    width_field="moe_intermediate_size",
    forbidden=("use_sliding_window",),
    extra=(*_QWEN_LAYERS, ("shared_expert_intermediate_size", 0), ("qkv_bias", True)),
    idle=(
        ("model.layers.{layer}.mlp.shared_expert.gate_proj.weight", (0, None)),
        ("model.layers.{layer}.mlp.shared_expert.up_proj.weight", (0, None)),
        ("model.layers.{layer}.mlp.shared_expert.down_proj.weight", (None, 0)),
        ("model.layers.{layer}.mlp.shared_expert_gate.weight", (1, None)),
    ),
)

QWEN3_MOE = MoEFormat(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    twin="qwen3",
    expert=_MLP_EXPERT,
    roles=_SAME,
    router=_MLP_ROUTER,
    count_field="num_experts",
    renormalises="flag",
    defaults=(
        *_QWEN_DEFAULTS,
        ("num_key_value_heads", 4),
        ("head_dim", None),
        ("num_experts", 128),
        ("num_experts_per_tok", 8),
        ("moe_intermediate_size", 768),
    ),
    width_field="moe_intermediate_size",
    forbidden=("use_sliding_window",),
    extra=_QWEN_LAYERS,
)

FORMATS: Mapping[str, MoEFormat] = {form.model_type: form for form in (FLEX_OLMO, MIXTRAL, QWEN2_MOE, QWEN3_MOE)}
