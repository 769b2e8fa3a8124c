"""Contributions seen as tables of tensors, and the check that they fit the base."""

from __future__ import annotations

from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import TensorMismatch
from quiltwork.models.assembly import DenseBody
from quiltwork.models.base import Base
from quiltwork.models.checkpoint import portable_config
from quiltwork.models.families import ROLES, Role
from quiltwork.models.sources import Source
from quiltwork.streaming.layout import ITEM_BYTES
from quiltwork.streaming.place import ELEMENTS


def body(base: Base) -> DenseBody:
    """The base as assemblies see it."""
    return DenseBody(portable_config(base.config, base.dtype), base.tensors)


def source(contribution: Contribution, name: str) -> Source:
    """One tensor of a contribution, verified when it is loaded."""
    entry = next(f.tensors[name] for f in contribution.manifest.payload.values() if name in f.tensors)
    return Source(
        entry.dtype,
        entry.shape,
        lambda: contribution.tensor(name),
        stream=lambda: contribution.pieces(name, ELEMENTS * ITEM_BYTES[entry.dtype]),
    )


def full_deltas(contribution: Contribution, base: Base) -> dict[str, Source]:
    """The differences of a full expert, by the base's tensor names."""
    return {name: source(contribution, f"full.{name}") for name in base.tensors}


def ffn_tensors(contribution: Contribution, base: Base) -> dict[tuple[int, Role], Source]:
    """The feed-forward tensors of an ffn expert, by layer and role."""
    return {
        (layer, role): source(contribution, f"ffn.layers.{layer}.{role}.weight")
        for layer in range(base.layers)
        for role in ROLES
    }


def router_tensors(contribution: Contribution, base: Base, kind: str) -> list[Source]:
    """A party's router ``"weight"`` or ``"bias"``, by layer."""
    return [source(contribution, f"ffn.layers.{layer}.router.{kind}") for layer in range(base.layers)]


def check_tensors(contribution: Contribution, base: Base, needed: frozenset[str]) -> None:
    """Refuse tensors that do not fit the base, each by name.

    Raises:
        TensorMismatch: a tensor is missing, extra (tied weights that the base stores once count as extra), or has
            another shape or dtype than the base's.
    """
    if "full" in needed:
        names = set(contribution.tensor_names("full."))
        expected = {f"full.{name}": item for name, item in base.tensors.items()}
        _refuse_names(contribution, sorted(expected.keys() - names), "is missing")
        tied = "is not in the base's checkpoint (a tied tensor is stored once, under the base's name)"
        _refuse_names(contribution, sorted(names - expected.keys()), tied)
        for name, item in expected.items():
            _check_shape(contribution, name, item)
    if "ffn" in needed:
        for layer in range(base.layers):
            for role in ROLES:
                item = base.tensors[base.family.ffn_name(layer, role)]
                name = f"ffn.layers.{layer}.{role}.weight"
                if name not in contribution.tensor_names("ffn."):
                    _refuse_names(contribution, [name], "is missing")
                _check_shape(contribution, name, item)
                if source(contribution, name).dtype != item.dtype:
                    _refuse(
                        contribution,
                        name,
                        f"has dtype {source(contribution, name).dtype}, the base {item.dtype}",
                    )
        for name in contribution.tensor_names("ffn."):
            if ".router." in name and source(contribution, name).dtype != base.dtype:
                _refuse(contribution, name, f"has dtype {source(contribution, name).dtype}, the base {base.dtype}")
        expected_layers = {name.split(".")[2] for name in contribution.tensor_names("ffn.")}
        extra = sorted(f"ffn.layers.{n}.*" for n in expected_layers if int(n) >= base.layers)
        _refuse_names(contribution, extra, f"belongs to a layer that the base, with {base.layers} layers, has not")


def _refuse_names(contribution: Contribution, names: list[str], why: str) -> None:
    if names:
        others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        _refuse(contribution, names[0] + others, why)


def _check_shape(contribution: Contribution, name: str, item: Source) -> None:
    shape = source(contribution, name).shape
    if shape != item.shape:
        _refuse(contribution, name, f"has shape {list(shape)}, and the base's is {list(item.shape)}")


def _refuse(contribution: Contribution, name: str, why: str) -> None:
    raise TensorMismatch(
        f"tensor '{name}' of party '{contribution.party}'",
        why=f"it {why}",
        mend="Ask the party for a contribution made from this base.",
    )
