"""Whether the tensors of a contribution fit the base, each refused by its name.

The manifest has settled which tensors there are and what shapes they have among themselves; whether these are the
base's layers and widths only the composer can tell, who has the base.

    ffn      every projection of every layer, of the base's width or narrower, in its dtype
    lowrank  factors whose product has the shape of the base's projection
    full     every tensor of the base, and no other
    lora     pairs of factors of matrices of the base, of the declared rank, which no side of a matrix is below
"""

from __future__ import annotations

from quiltwork.compose.parts import routed, source, weights_of
from quiltwork.contribution.kinds import LoRAExpert, LowRankExpert
from quiltwork.contribution.sealed import Contribution
from quiltwork.errors import TensorMismatch
from quiltwork.models.base import Base
from quiltwork.models.families import ROLES

_TIED = "is not in the base's checkpoint (a tied tensor is stored once, under the base's name)"


def check_tensors(contribution: Contribution, base: Base, needed: frozenset[str]) -> None:
    """Refuse tensors that do not fit the base, each by name.

    Args:
        contribution: it provides what is needed.
        base: the public checkpoint.
        needed: what the method asks for, as `Contribution.provides` names it.

    Raises:
        TensorMismatch: a tensor is missing, extra (tied weights that the base stores once count as extra), or has
            another shape or dtype than the base's.
    """
    if "full" in needed:
        lora = weights_of(contribution).lora
        if lora is None:
            _check_full(contribution, base)
        else:
            _check_lora(contribution, base, lora)
    if "ffn" in needed:
        lowrank = isinstance(routed(contribution), LowRankExpert)
        _check_routed(contribution, base, lowrank=lowrank)


def _check_full(contribution: Contribution, base: Base) -> None:
    names = set(contribution.tensor_names("full."))
    expected = {f"full.{name}": item.shape for name, item in base.tensors.items()}
    _refuse_names(contribution, sorted(expected.keys() - names), "is missing")
    _refuse_names(contribution, sorted(names - expected.keys()), _TIED)
    for name, shape in expected.items():
        _check_shape(contribution, name, shape)


def _check_lora(contribution: Contribution, base: Base, lora: LoRAExpert) -> None:
    names = contribution.tensor_names("lora.")
    targets = {name.removeprefix("lora.").rpartition(".")[0] for name in names}
    _refuse_names(contribution, sorted(f"lora.{t}" for t in targets - base.tensors.keys()), _TIED)
    for target in sorted(targets):
        shape = base.tensors[target].shape
        if len(shape) != 2:
            _refuse(contribution, f"lora.{target}", "is a pair of factors, and the base's tensor is no matrix")
        if lora.rank > min(shape):
            _refuse(contribution, f"lora.{target}", f"is of rank {lora.rank}, and the base's matrix of {min(shape)}")
        due = {f"lora.{target}.a": (lora.rank, shape[1]), f"lora.{target}.b": (shape[0], lora.rank)}
        for name, wanted in due.items():
            _refuse_names(contribution, [name] if name not in names else [], "is missing")
            _check_shape(contribution, name, wanted)
    pairs = {f"lora.{target}.{factor}" for target in targets for factor in "ab"}
    _refuse_names(contribution, sorted(set(names) - pairs), "is neither factor of a pair")


def _check_routed(contribution: Contribution, base: Base, *, lowrank: bool) -> None:
    part = "lowrank" if lowrank else "ffn"
    names = contribution.tensor_names(f"{part}.")
    for name, shape in _expected(contribution, base, part).items():
        _refuse_names(contribution, [name] if name not in names else [], "is missing")
        _check_shape(contribution, name, shape)
    for name in names:
        # factors are added to the base in float64, so only what is used as it is must have its dtype
        if not name.endswith((".up", ".down")) and source(contribution, name).dtype != base.dtype:
            _refuse(contribution, name, f"has dtype {source(contribution, name).dtype}, the base {base.dtype}")
    extra = sorted({f"{part}.layers.{n}.*" for n in (name.split(".")[2] for name in names) if int(n) >= base.layers})
    _refuse_names(contribution, extra, f"belongs to a layer that the base, with {base.layers} layers, has not")


def _expected(contribution: Contribution, base: Base, part: str) -> dict[str, tuple[int, ...]]:
    """Every tensor of a feed-forward expert with its shape, given the base's widths."""
    declared, hidden = routed(contribution), base.hidden_size
    width = min(declared.intermediate_size, base.intermediate_size) if part == "ffn" else base.intermediate_size
    due: dict[str, tuple[int, ...]] = {}
    for layer in range(base.layers):
        for role in ROLES:
            shape = (hidden, width) if role == "down_proj" else (width, hidden)
            name = f"{part}.layers.{layer}.{role}"
            if isinstance(declared, LowRankExpert):
                due |= {f"{name}.down": (declared.rank, shape[1]), f"{name}.up": (shape[0], declared.rank)}
            else:
                due[f"{name}.weight"] = shape
    return due


def _refuse_names(contribution: Contribution, names: list[str], why: str) -> None:
    if names:
        others = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        _refuse(contribution, names[0] + others, why)


def _check_shape(contribution: Contribution, name: str, wanted: tuple[int, ...]) -> None:
    shape = source(contribution, name).shape
    if shape != wanted:
        _refuse(contribution, name, f"has shape {list(shape)}, and the base's is {list(wanted)}")


def _refuse(contribution: Contribution, name: str, why: str) -> None:
    raise TensorMismatch(
        f"tensor '{name}' of party '{contribution.party}'",
        why=f"it {why}",
        mend="Ask the party for a contribution made from this base.",
    )
