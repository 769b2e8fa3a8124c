"""What is read of a config.json that a stranger may have written, and whether a model of it answers.

Libraries read much more from a config than a model is made of: names of classes and of kernels that they would fetch
and run, quantisers, what a call returns, how text is sampled. None of it decides what a model of the known families
computes, so none of it is passed on. What is left is held against the tensors before anything is built in their size,
and a model that is built must answer a few tokens: with and without a cache, with one finite number for each token of
the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiltwork.errors import CheckpointError, QuiltworkError
from quiltwork.models.families import Family
from quiltwork.models.sources import Sources

if TYPE_CHECKING:
    from torch import Tensor

_READ = frozenset({
    "model_type", "architectures", "dtype", "torch_dtype", "initializer_range", "tie_word_embeddings",
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "hidden_act", "rms_norm_eps", "attention_bias", "attention_dropout", "mlp_bias", "qkv_bias",
    "max_position_embeddings", "original_max_position_embeddings", "rope_theta", "rope_scaling", "rope_parameters",
    "sliding_window", "use_sliding_window", "max_window_layers", "layer_types",
    "bos_token_id", "eos_token_id", "pad_token_id",
    "num_experts", "num_local_experts", "num_experts_per_tok", "norm_topk_prob", "router_aux_loss_coef",
    "router_jitter_noise", "decoder_sparse_step", "mlp_only_layers", "moe_intermediate_size",
    "shared_expert_intermediate_size",
})  # fmt: skip
_WINDOWED = frozenset({"qwen2", "qwen3", "qwen2_moe", "qwen3_moe"})
"""Classes that have a kind of attention for each layer; others take the field and then miss its companions."""
_SIZES = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"
)  # fmt: skip
_MEND = "Fetch the checkpoint again; if it was composed, compose it again from the contributions."
_TOKENS, _FIRST = 6, 4


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config.json from which a model is built; see the module's docstring.

    >>> plain_config({"model_type": "llama", "hidden_size": 8, "auto_map": {"AutoModel": "code.Model"}})
    {'model_type': 'llama', 'hidden_size': 8}
    """
    read = _READ if config.get("model_type") in _WINDOWED else _READ - {"layer_types"}
    found = {name: value for name, value in config.items() if name in read}
    for name in {"rope_parameters", "rope_scaling"} & found.keys():
        if isinstance(found[name], Mapping):  # every known family turns whole heads
            found[name] = {key: value for key, value in found[name].items() if key != "partial_rotary_factor"}
    return found


def require_sizes(config: Mapping[str, Any], family: Family, tensors: Sources, where: str) -> None:
    """Refuse a dense config whose sizes are not those of the tensors: a model is built in the sizes that it names.

    Args:
        config: config.json of the dense model, with the fields filled in that its family leaves to defaults.
        family: its family.
        tensors: by their names in the dense model.
        where: whose they are, for the message.

    Raises:
        CheckpointError: the field or the tensor is named.
    """
    for field in _SIZES:
        if type(config.get(field)) is not int or config[field] < 1:
            why = f"it is {str(config.get(field))[:100]}, and a size is needed"
            raise CheckpointError(f"config field '{field}' of {where}", why=why, mend=_MEND)
    # it is multiplied below, and text times a number is text of that length
    if config.get("head_dim") is not None and type(config["head_dim"]) is not int:
        why = f"it is {str(config['head_dim'])[:100]!a}, and a whole number is needed"
        raise CheckpointError(f"config field 'head_dim' of {where}", why=why, mend=_MEND)
    if config["num_hidden_layers"] > len(tensors):
        why = f"it names {config['num_hidden_layers']} layers, and there are {len(tensors)} tensors in all"
        raise CheckpointError(f"config.json of {where}", why=why, mend=_MEND)
    for name, shape in _shapes(config, family).items():
        if name in tensors and tensors[name].shape != shape:
            why = f"it has shape {list(tensors[name].shape)}, and config.json says {list(shape)}"
            raise CheckpointError(f"tensor '{name}' of {where}", why=why, mend=_MEND)


def _shapes(config: Mapping[str, Any], family: Family) -> dict[str, tuple[int, int]]:
    """The tensors whose shapes have every size in them."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    attention = "model.layers.0.self_attn."
    return {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        f"{attention}q_proj.weight": (heads * head, hidden),
        f"{attention}k_proj.weight": (config["num_key_value_heads"] * head, hidden),
        family.ffn_name(0, "up_proj"): (config["intermediate_size"], hidden),
    }


@contextmanager
def building(where: Path) -> Iterator[None]:
    """Tell what libraries raise at a config, at tensors or at an answer as the directory's fault.

    Raises:
        CheckpointError: they raised something.
    """
    try:
        yield
    except QuiltworkError:
        raise
    except Exception as error:  # whatever the classes of transformers happen to raise
        raise CheckpointError(
            f"'{where}'",
            why=f"transformers makes no model of its config and tensors ({str(error)[:300]})",
            mend=_MEND,
        ) from error


def require_answer(model: Any, where: Path) -> None:
    """Have a model answer a few tokens, at once and in two steps with a cache.

    Raises:
        CheckpointError: the answers are not finite, or not one number for each token of the vocabulary.
    """
    import torch

    ids = (torch.arange(_TOKENS, device=model.device) % model.config.get_text_config().vocab_size)[None]
    with torch.no_grad():
        require_finite(model(input_ids=ids, use_cache=False).logits, where)
        first = model(input_ids=ids[:, :_FIRST], use_cache=True)
        last = model(input_ids=ids[:, _FIRST:], past_key_values=first.past_key_values, use_cache=True)
    require_finite(last.logits, where)
    if last.logits.shape != (1, _TOKENS - _FIRST, model.get_input_embeddings().weight.shape[0]):
        why = f"it answers with {list(last.logits.shape)} numbers, and not one for each token of its vocabulary"
        raise CheckpointError(f"'{where}'", why=why, mend=_MEND)


def require_finite(logits: Tensor, where: Path | str) -> None:
    """Refuse an answer with a NaN or an infinity.

    Raises:
        CheckpointError: it has one.
    """
    if not bool(logits.isfinite().all()):
        raise CheckpointError(
            f"'{where}'",
            why="it answers with numbers that are not finite: among its weights are some out of all proportion",
            mend="Find out whose with `quiltwork screen --weights-only`, and compose without that contribution.",
        )


def require_known(token: int, model: Any, whose: str) -> None:
    """Refuse a token id beyond a model's vocabulary.

    Raises:
        CheckpointError: it is; ``whose`` says where it is from.
    """
    known = model.get_input_embeddings().weight.shape[0]
    if token >= known:
        why = f"it makes token {token}, and the model knows {known}"
        raise CheckpointError(whose, why=why, mend="Use the tokenizer that the model was trained with.")
