"""Contributions seen as tables of tensors: what each part gives, in the form that assemblies take.

A part may be stored in fewer numbers than it stands for, and is put back together here, in float64, rounded once:

    ffn    W' as it is                  lowrank   W' = base + up @ down
    full   the difference, as it is     lora      the difference, scaling * b @ a; zero where nothing is named
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from quiltwork.contribution.kinds import ExpertMethod, FFNExpert, LowRankExpert
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import CheckpointError, MissingPart
from quiltwork.models.assembly import DenseBody
from quiltwork.models.base import Base
from quiltwork.models.checkpoint import portable_config
from quiltwork.models.families import ROLES, Role
from quiltwork.models.sources import Source
from quiltwork.streaming.layout import ITEM_BYTES
from quiltwork.streaming.place import ELEMENTS

if TYPE_CHECKING:
    from torch import Tensor


def body(base: Base) -> DenseBody:
    """The base as assemblies see it.

    Raises:
        CheckpointError: it is a mixture of experts.
    """
    if base.own is not None:
        raise CheckpointError(
            f"base '{base.path}'",
            why=f"it is a mixture of {base.own.count} experts, and this method takes a dense base",
            mend="Extend it with ffn experts and LearnedRows or PrefixEvidence, or compose on the dense model.",
        )
    return twin(base)


def twin(base: Base) -> DenseBody:
    """The base without what a mixture has besides its first expert."""
    tensors = {name: replace(item, identity=f"{base.digest} {name}") for name, item in base.tensors.items()}
    return DenseBody(portable_config(base.config, base.dtype), tensors)


def extended(base: Base) -> DenseBody:
    """The base with its own experts, if it is a mixture."""
    return replace(twin(base), own=base.own.identified(base.digest) if base.own is not None else None)


def source(contribution: Contribution, name: str) -> Source:
    """One tensor of a contribution, verified when it is loaded."""
    entry = next(f.tensors[name] for f in contribution.manifest.payload.values() if name in f.tensors)
    return Source(
        entry.dtype,
        entry.shape,
        lambda: contribution.tensor(name),
        stream=lambda: contribution.pieces(name, ELEMENTS * ITEM_BYTES[entry.dtype]),
        identity=entry.digest,
    )


def weights_of(contribution: Contribution) -> ExpertMethod:
    """What an expert declares of its weights.

    Raises:
        MissingPart: the contribution is no expert.
    """
    method = contribution.manifest.method
    if isinstance(method, ExpertMethod):
        return method
    raise MissingPart(
        f"the contribution of party '{contribution.party}'",
        why=f"it is of kind '{contribution.kind}', and holds no weights of a language model",
        mend="Leave it out, or ask the party for an expert.",
    )


def routed(contribution: Contribution) -> FFNExpert | LowRankExpert:
    """What a feed-forward expert declares, in whichever form it is stored.

    Raises:
        MissingPart: the contribution holds none.
    """
    found = weights_of(contribution).routed
    if found is not None:
        return found
    raise MissingPart(
        f"the contribution of party '{contribution.party}'",
        why="it holds no feed-forward expert",
        mend="Ask the party for the scope ffn or lowrank.",
    )


def full_deltas(contribution: Contribution, base: Base) -> dict[str, Source]:
    """The differences of a whole model, by the base's tensor names."""
    lora = weights_of(contribution).lora
    if lora is None:
        return {name: source(contribution, f"full.{name}") for name in base.tensors}
    changed = {name.removeprefix("lora.").removesuffix(".a") for name in contribution.tensor_names("lora.")}
    return {
        name: _product(contribution, name, lora.scaling, item)
        if name in changed
        else Source.zeros(item.dtype, item.shape)
        for name, item in base.tensors.items()
    }


def _product(contribution: Contribution, name: str, scaling: float, item: Source) -> Source:
    b, a = (source(contribution, f"lora.{name}.{factor}") for factor in "ba")
    return Source("F64", item.shape, lambda: scaling * (b.load().double() @ a.load().double()))


def ffn_tensors(contribution: Contribution, base: Base) -> dict[tuple[int, Role], Source]:
    """The feed-forward tensors of an expert, by layer and role; of a narrow one they are smaller than the base's."""
    keys = [(layer, role) for layer in range(base.layers) for role in ROLES]
    if isinstance(routed(contribution), LowRankExpert):
        return {key: _restored(contribution, base, *key) for key in keys}
    return {(layer, role): source(contribution, f"ffn.layers.{layer}.{role}.weight") for layer, role in keys}


def _restored(contribution: Contribution, base: Base, layer: int, role: Role) -> Source:
    item = base.tensors[base.family.ffn_name(layer, role)]
    up, down = (source(contribution, f"lowrank.layers.{layer}.{role}.{factor}") for factor in ("up", "down"))

    def load() -> Tensor:
        from quiltwork.models.low_rank import materialise

        return materialise(item.load(), up.load(), down.load())

    return Source(item.dtype, item.shape, load)


def router_tensors(contribution: Contribution, base: Base, kind: str) -> list[Source]:
    """A party's router ``"weight"`` or ``"bias"``, by layer."""
    part = "lowrank" if isinstance(routed(contribution), LowRankExpert) else "ffn"
    return [source(contribution, f"{part}.layers.{layer}.router.{kind}") for layer in range(base.layers)]
