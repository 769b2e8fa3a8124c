"""A tiny base from scratch: byte-level BPE tokenizer and a small dense model, for demonstrations and benchmarks.

Real consortia start from a public checkpoint. Where none may be downloaded, this makes one from public text in a
minute or two of CPU time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quiltwork.errors import InvalidOption
from quiltwork.models.families import FAMILIES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SEPARATOR = "<|endoftext|>"


@dataclass(frozen=True)
class TinySize:
    """Sizes of a tiny model; the defaults make 1.1 million parameters.

    Attributes:
        vocabulary: tokens.
        hidden: width of the residual stream.
        intermediate: width of the feed-forward block.
        layers: decoder layers.
        heads: attention heads.
        positions: longest sequence.
    """

    vocabulary: int = 2048
    hidden: int = 128
    intermediate: int = 384
    layers: int = 4
    heads: int = 4
    positions: int = 512


def train_tokenizer(documents: Iterable[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, so that any text in any script can be encoded."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=SEPARATOR, bos_token=SEPARATOR, pad_token=SEPARATOR
    )


def tiny_model(
    family: str, size: TinySize, *, seed: int, tie: bool = True, config: Mapping[str, Any] | None = None
) -> PreTrainedModel:
    """A randomly initialised dense model of a family.

    Args:
        family: a name in ``models.families.FAMILIES``.
        size: its sizes.
        seed: of the initialisation.
        tie: share the token embeddings with the output head.
        config: further fields of config.json, as transformers' class of the family takes them.

    Raises:
        InvalidOption: quiltwork does not know the family.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if family not in FAMILIES:
        raise InvalidOption(
            f"family '{family}'", why="there is no tiny model of it", mend=f"Use one of: {', '.join(FAMILIES)}."
        )
    fields = {
        "vocab_size": size.vocabulary,
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.heads,
        "max_position_embeddings": size.positions,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": tie,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": 0,
    }
    if "head_dim" in dict(FAMILIES[family].defaults):
        fields["head_dim"] = size.hidden // size.heads  # Qwen3's class assumes 128, whatever the width
    torch.manual_seed(seed)
    built = AutoConfig.for_model(family, **fields | dict(config or {}))
    return AutoModelForCausalLM.from_config(built, dtype=torch.float32)  # type: ignore[no-any-return]
