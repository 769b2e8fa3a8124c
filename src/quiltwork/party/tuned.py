"""A model that was tuned already, seen as tensors: a checkpoint, or a contribution of one's own.

Either gives the tuned value of every tensor of the base, none of them read yet. Anything that shows that it is another
model (an architecture, a size, a tokenizer, a tensor more or less) is refused by name, before any arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quiltwork.contribution import manifest
from quiltwork.contribution.kinds import ExpertMethod, FFNExpert, Statistic
from quiltwork.contribution.manifest import LanguageFields, TrainingSummary
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import read
from quiltwork.errors import BaseMismatch, CheckpointError, InvalidOption
from quiltwork.models.base import Base, open_base, rope
from quiltwork.models.families import ROLES
from quiltwork.models.sources import Source, Sources, total
from quiltwork.privacy.events import Event
from quiltwork.streaming.layout import ITEM_BYTES
from quiltwork.streaming.place import ELEMENTS

_STATISTICS = ("tokens", "bigrams", "trigrams", "moments", "proxies")


@dataclass(frozen=True)
class Kept:
    """What a contribution said besides its weights, which goes on with them.

    Attributes:
        statistics: declarations.
        tensors: theirs, by name.
        events: theirs, and that of the training losses.
        training: how the weights were trained.
    """

    statistics: tuple[Statistic, ...] = ()
    tensors: Mapping[str, Source] = field(default_factory=dict)
    events: tuple[Event, ...] = ()
    training: TrainingSummary | None = None


@dataclass(frozen=True)
class Tuned:
    """A tuned model.

    Attributes:
        tensors: the tuned value of every tensor of the base.
        router: the fields of a manifest that say how rows were learned; none were where it is empty.
        rows: router tensors, by the end of their names, ``layers.{l}.router.weight``.
        kept: what else a contribution said.
    """

    tensors: Sources
    router: Mapping[str, Any] = field(default_factory=dict)
    rows: Sources = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept)


def open_tuned(path: Path, base: Base, *, whole: bool) -> Tuned:
    """A checkpoint that was tuned from the base, or a contribution with weights made from it.

    Args:
        path: its directory.
        base: the public checkpoint.
        whole: of a contribution that holds both, take the whole model rather than the feed-forward expert.

    Raises:
        CheckpointError: the checkpoint is another model than the base.
        BaseMismatch: the contribution was made from another base.
        InvalidOption: the contribution holds no absolute weights or differences.
        ContributionError: the contribution is not sound.
    """
    if (path / manifest.FILE).is_file():
        return _of_contribution(read(path), base, whole)
    return Tuned(_of_checkpoint(path, base))


def _of_checkpoint(path: Path, base: Base) -> Sources:
    tuned = open_base(path, what="checkpoint")
    if base.own is not None:
        raise CheckpointError(
            f"base '{base.path}'",
            why="it is a mixture of experts, and differences are taken to a dense model",
            mend="Train an expert beside it: quiltwork contribute expert.",
        )
    settings = [dict(one.config) | {"rope": rope(one.config), "model_type": one.model_type} for one in (base, tuned)]
    for name in ("model_type", *base.identity_fields, "rope"):
        if settings[0].get(name) != settings[1].get(name):
            raise _another(path, f"config field '{name}'", f"{settings[1].get(name)!r}", f"{settings[0].get(name)!r}")
    if tuned.tokenizer_digest != base.tokenizer_digest:
        raise _another(path, "its tokenizer", f"{tuned.tokenizer_digest[:19]}…", f"{base.tokenizer_digest[:19]}…")
    for name in sorted(base.tensors.keys() ^ tuned.tensors.keys()):
        found = ["there" if name in one.tensors else "missing" for one in (tuned, base)]
        raise _another(path, f"tensor '{name}'", *found)
    for name, item in base.tensors.items():
        if tuned.tensors[name].shape != item.shape:
            raise _another(path, f"tensor '{name}'", f"{list(tuned.tensors[name].shape)}", f"{list(item.shape)}")
    return tuned.tensors


def _another(path: Path, what: str, here: str, there: str) -> CheckpointError:
    return CheckpointError(
        f"{what} of checkpoint '{path}'",
        why=f"it is {here}, and of the base {there}: differences are taken between two states of one model",
        mend="Give a checkpoint that was tuned from this base, or the base that it was tuned from.",
    )


def _of_contribution(contribution: Contribution, base: Base, whole: bool) -> Tuned:
    stated, method = contribution.manifest, contribution.manifest.method
    whose = f"the contribution '{contribution.path}'"
    if (
        not isinstance(stated, LanguageFields)
        or not isinstance(method, ExpertMethod)
        or not (method.ffn or method.full)
    ):
        raise InvalidOption(
            whose, why="it holds neither a part 'ffn' nor a part 'full'", mend="Give one that does, or a checkpoint."
        )
    if stated.base.digest != base.digest:
        raise BaseMismatch(
            whose,
            why=f"it was made from base {stated.base.digest[:19]}…, and this base is {base.digest[:19]}…",
            mend="Give the base that it was made from.",
        )
    kept = Kept(
        stated.statistics,
        {n: _source(contribution, n) for n in contribution.tensor_names() if n.partition(".")[0] in _STATISTICS},
        tuple(event for event in stated.privacy if event.released in (*_STATISTICS, "training")),
        stated.training,
    )
    if method.ffn is not None and not (whole and method.full is not None):
        return _of_experts(contribution, method.ffn, base, kept)
    tensors = {n: total([(1.0, s), (1.0, _source(contribution, f"full.{n}"))], "F64") for n, s in base.tensors.items()}
    return Tuned(tensors, kept=kept)


def _of_experts(contribution: Contribution, ffn: FFNExpert, base: Base, kept: Kept) -> Tuned:
    if ffn.intermediate_size != base.intermediate_size:
        raise InvalidOption(
            f"the contribution '{contribution.path}'",
            why=f"its experts have {ffn.intermediate_size} neurons, and the base's {base.intermediate_size}",
            mend="Give an expert of the base's width.",
        )
    changed = {
        base.family.ffn_name(layer, role): _source(contribution, f"ffn.layers.{layer}.{role}.weight")
        for layer in range(base.layers)
        for role in ROLES
    }
    rows = {n.removeprefix("ffn."): _source(contribution, n) for n in contribution.tensor_names() if ".router." in n}
    router = ffn.model_dump(include={"top_k", "anchor_share", "router", "bias"})
    return Tuned(dict(base.tensors) | changed, router, rows, kept)


def _source(contribution: Contribution, name: str) -> Source:
    entry = next(f.tensors[name] for f in contribution.manifest.payload.values() if name in f.tensors)
    size = ELEMENTS * ITEM_BYTES[entry.dtype]
    return Source.streamed(entry.dtype, entry.shape, lambda: contribution.pieces(name, size))
