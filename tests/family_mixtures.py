"""Tiny bases of every family, with every tensor filled, and mixtures of them that need no training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, normalizers, pre_tokenizers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from quiltwork.compose.parts import extended
from quiltwork.composite import Composite
from quiltwork.models.assembly import Experts, Layout
from quiltwork.models.base import Base, open_base
from quiltwork.models.checkpoint import TokenizerFiles
from quiltwork.models.routers import Rows
from quiltwork.models.sources import Source
from quiltwork.models.tiny import TinySize, tiny_model, train_tokenizer

VOCABULARY = 300
TEXT = "Train apart. Compose together: ünï, 42"
SIZE = TinySize(vocabulary=VOCABULARY, hidden=32, intermediate=48, layers=3, heads=4, positions=128)
# grouped heads, and for Qwen3 heads whose width is not hidden / heads, so that neither can be got wrong unseen
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "olmo2": {},
    "llama": {"num_key_value_heads": 2},
    "mistral": {"num_key_value_heads": 2, "sliding_window": 9},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 16},
}


def family_base(family: str, place: Path, *, tie: bool = False, **config: Any) -> Base:
    """An untrained base whose norms and biases are neither ones nor zeros, since those hide a tensor that is lost."""
    model = tiny_model(family, SIZE, seed=0, tie=tie, config={**FIELDS[family], **config})
    generator = torch.Generator().manual_seed(7)
    for tensor in model.state_dict().values():
        if tensor.dim() == 1:
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=generator))
        else:
            tensor.mul_(4.0)  # predictions far from uniform, so that a changed function shows
    model.save_pretrained(place)
    _tokenizer(family).save_pretrained(place)
    return open_base(place)


def _tokenizer(family: str) -> Any:
    """A tokenizer of its own; for Qwen2 with the rules that transformers 5 puts around every vocabulary of Qwen2."""
    tokenizer = train_tokenizer([TEXT, "another text"], VOCABULARY)
    if family == "qwen2":
        split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
        tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


def mixture_of(base: Base, *, parties: int = 2, alike: bool = False, **router: Any) -> Experts:
    """Experts that differ from the base's FFN by a factor (or not at all), with random rows."""
    generator = torch.Generator().manual_seed(5)
    names = [f"party{i}" for i in range(parties)]

    def expert(factor: float) -> dict[Any, Source]:
        return {key: source.derive(lambda t: t * factor) for key, source in base.ffn().items()}

    experts = {party: expert(1.0 if alike else 1.5 + number) for number, party in enumerate(names)}
    learned = {
        party: [Source.of(torch.randn(base.hidden_size, generator=generator)) for _ in range(base.layers)]
        for party in names
    }
    settings = {"top_k": None, "renormalise": True} | router
    own = list(base.own.rows) if base.own is not None else None
    rows = Rows(learned, {}, weights=dict.fromkeys(("", *names), 1.0), own=own, **settings)
    return Experts(extended(base), experts, rows)


def written(assembly: Experts, base: Base, place: Path, layout: Layout = "portable") -> Path:
    """The assembly as a checkpoint directory."""
    place.mkdir(parents=True)
    assembly.checkpoint(layout).write(place, TokenizerFiles.of(base))
    return place


def composite_model(assembly: Experts) -> Any:
    """The model that ``Composite.model`` builds of an assembly."""
    return Composite(assembly, None, None).model()  # type: ignore[arg-type]


def some_text() -> torch.Tensor:
    """Token ids ``[2, 24]``, longer than the windows of the bases here."""
    return torch.randint(1, VOCABULARY, (2, 24), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Logits of ``some_text``."""
    return model(input_ids=some_text(), use_cache=False).logits  # type: ignore[no-any-return]
