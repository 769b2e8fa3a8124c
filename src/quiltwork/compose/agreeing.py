"""Do whole checkpoints belong together, tensor by tensor? The check before they are merged.

Everything that decides what a weight means must agree: family, sizes, rotary settings, tokenizer, and each tensor's
name, shape and dtype. What only decides how a model is used (which token ends a text, the chat template) may differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice

from quiltwork.errors import CompatibilityError, TensorMismatch, TokenizerMismatch
from quiltwork.models.base import Base, rope

_TIED = "tie_word_embeddings"


def require_agreement(models: Mapping[str, Base]) -> None:
    """Refuse checkpoints that differ from the first in more than their weights' values.

    Raises:
        CompatibilityError: a mixture of experts among them; another family or other rotary settings.
        TokenizerMismatch: another vocabulary or tokenizer.
        TensorMismatch: another number of layers or width, a head that is tied in one and not in the other, or a tensor
            that is missing, extra, or of another shape or dtype. The offending part is named.
    """
    first = next(iter(models))
    for name, model in models.items():
        if model.own is not None:
            why = f"it is a mixture of experts ({model.model_type}), and only dense models are merged"
            raise CompatibilityError(f"'{name}'", why=why, mend="Compose mixtures with `quiltwork compose`.")
    for name, model in islice(models.items(), 1, None):
        _same_architecture(first, models[first], name, model)
        _same_tokenizer(first, models[first], name, model)
        _same_tensors(first, models[first], name, model)


def _same_architecture(first: str, one: Base, name: str, other: Base) -> None:
    mend = "Merge models that were trained from one base."
    if one.family.name != other.family.name:
        why = f"it is of family {other.family.name}, and '{first}' of {one.family.name}"
        raise CompatibilityError(f"'{name}'", why=why, mend=mend)
    if bool(one.config.get(_TIED)) != bool(other.config.get(_TIED)):
        words = {True: "ties its head to its embedding", False: "has a head of its own"}
        why = f"it {words[bool(other.config.get(_TIED))]}, and '{first}' {words[bool(one.config.get(_TIED))]}"
        raise TensorMismatch(f"tensor 'lm_head.weight' of '{name}'", why=why, mend=mend)
    for field in one.identity_fields:
        if one.config.get(field) != other.config.get(field) and field != "vocab_size":
            why = f"it is {other.config.get(field)!r}, and {one.config.get(field)!r} in '{first}'"
            raise TensorMismatch(f"config field '{field}' of '{name}'", why=why, mend=mend)
    if rope(one.config) != rope(other.config):
        why = f"they are {rope(other.config)}, and {rope(one.config)} in '{first}'"
        raise CompatibilityError(f"rotary settings of '{name}'", why=why, mend=mend)


def _same_tokenizer(first: str, one: Base, name: str, other: Base) -> None:
    mend = "Merge models that share a tokenizer: a row of an embedding means a token."
    if one.vocabulary_size != other.vocabulary_size:
        why = f"it has {other.vocabulary_size} tokens, and '{first}' {one.vocabulary_size}"
        raise TokenizerMismatch(f"vocabulary of '{name}'", why=why, mend=mend)
    if one.tokenizer_digest != other.tokenizer_digest:
        raise TokenizerMismatch(f"tokenizer.json of '{name}'", why=f"it is not that of '{first}'", mend=mend)


def _same_tensors(first: str, one: Base, name: str, other: Base) -> None:
    for tensor in sorted(one.tensors.keys() - other.tensors.keys()):
        raise _tensor(tensor, name, f"is missing, and '{first}' holds it")
    for tensor in sorted(other.tensors.keys() - one.tensors.keys()):
        raise _tensor(tensor, name, f"is there, and '{first}' does not hold it")
    for tensor, source in one.tensors.items():
        found = other.tensors[tensor]
        if found.shape != source.shape:
            raise _tensor(tensor, name, f"has shape {list(found.shape)}, and {list(source.shape)} in '{first}'")
        if found.dtype != source.dtype:
            raise _tensor(tensor, name, f"is {found.dtype}, and {source.dtype} in '{first}'; merging would round one")


def _tensor(tensor: str, name: str, why: str) -> TensorMismatch:
    mend = "Merge checkpoints of one architecture, saved in one dtype."
    return TensorMismatch(f"tensor '{tensor}' of '{name}'", why=f"it {why}", mend=mend)
