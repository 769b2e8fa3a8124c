"""The experts of a base that is a mixture of experts itself, so that a composed model can be extended.

Such a base is read as its dense twin (models/moe_formats.py) whose feed-forward block is the first expert, and beside
it the other experts, one row an expert and layer, and the rule by which they answer:

    block(x) = sum over the top k0 of softmax(R x)_e M_e(x),   R: [n0, hidden], rescaled if ``renormalise``

All of it stays frozen. Whoever joins adds one expert and one row, as to a dense base ("freeze n - 1").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from quiltwork.errors import CheckpointError
from quiltwork.models.families import Family
from quiltwork.models.moe_formats import ROLES, MoEFormat, Role
from quiltwork.models.sources import Source, Sources, stacked
from quiltwork.streaming.layout import Dtype

_APART = "Fetch the checkpoint again; a {form} checkpoint has one tensor an expert and projection, not stacks of them."


@dataclass(frozen=True)
class OwnExperts:
    """What a mixture has besides its dense twin.

    Attributes:
        others: feed-forward tensors of experts 1, 2, ... by layer and role; expert 0 is the twin's own.
        rows: the router's rows ``[experts, hidden]``, by layer.
        top_k: how many experts answer a token.
        renormalise: whether their weights are rescaled to sum to one.
    """

    others: tuple[Mapping[tuple[int, Role], Source], ...]
    rows: tuple[Source, ...]
    top_k: int
    renormalise: bool

    @property
    def count(self) -> int:
        """n0, the number of experts."""
        return 1 + len(self.others)

    @property
    def rule(self) -> dict[str, Any]:
        """The numbers that say how the experts answer."""
        return {"experts": self.count, "top_k": self.top_k, "renormalise": self.renormalise}

    @classmethod
    def of(
        cls, rule: Mapping[str, Any], experts: Sequence[Mapping[tuple[int, Role], Source]], rows: Sequence[Source]
    ) -> OwnExperts:
        """The experts again, from what a composite keeps of them.

        Args:
            rule: as `rule` gives it.
            experts: all of them, the first included.
            rows: by layer, those of the base's own experts first; others may follow.
        """
        own = tuple(_first(one, len(experts)) for one in rows)
        return cls(tuple(experts[1:]), own, int(rule["top_k"]), bool(rule["renormalise"]))

    def identified(self, digest: str) -> OwnExperts:
        """The same with sources that say which base they are of."""

        def marked(name: str, source: Source) -> Source:
            return replace(source, identity=f"{digest} own.{name}")

        others = tuple(
            {key: marked(f"{1 + number}.{key[0]}.{key[1]}", source) for key, source in expert.items()}
            for number, expert in enumerate(self.others)
        )
        rows = tuple(marked(f"rows.{layer}", source) for layer, source in enumerate(self.rows))
        return replace(self, others=others, rows=rows)

    def tensors(self) -> dict[str, Source]:
        """Every tensor by a name that no format has a part in."""
        experts = {
            f"own.{1 + number}.layers.{layer}.{role}": source
            for number, expert in enumerate(self.others)
            for (layer, role), source in expert.items()
        }
        return experts | {f"own.rows.layers.{layer}": source for layer, source in enumerate(self.rows)}


def read_mixture(
    family: Family, config: Mapping[str, Any], body: Mapping[str, Any], tensors: Sources, where: str
) -> tuple[dict[str, Source], OwnExperts]:
    """The tensors of the dense twin, by the twin's names, and the experts beside it.

    Args:
        family: the dense twin.
        config: config.json of the mixture.
        body: config.json of the twin.
        tensors: every tensor by its name on disk.
        where: whose they are, for messages.

    Raises:
        CheckpointError: tensors are missing, of another shape than the config says, or none of a plain mixture; or the
            config describes none.
    """
    form = family.moe
    chosen = form.selection(config, where)
    layers = range(int(body["num_hidden_layers"]))
    if len(layers) * chosen.experts > len(tensors):  # before as many names are made as somebody's config asks for
        raise CheckpointError(
            f"base {where}",
            why=f"config.json says {len(layers)} layers of {chosen.experts} experts, and there are {len(tensors)} "
            "tensors in all",
            mend=_APART.format(form=form.model_type),
        )
    experts = [
        {(layer, role): form.expert_name(layer, number, role) for layer in layers for role in ROLES}
        for number in range(chosen.experts)
    ]
    routers = [form.router.format(layer=layer) for layer in layers]
    expected = [*family.body_names(body), *(name for expert in experts for name in expert.values()), *routers]
    _require(form, expected, tensors, where)
    _refuse_others(form, expected, body, tensors, where)
    _check_shapes(experts, routers, body, tensors, where)
    taken = {name for expert in experts for name in expert.values()} | set(routers) | _idle(form, body)
    twin = {name: source for name, source in tensors.items() if name not in taken}
    twin |= {family.ffn_name(*key): tensors[name] for key, name in experts[0].items()}
    twin = dict(sorted(twin.items()))
    _require_dtype(routers, tensors, next(iter(twin.values())).dtype, where)
    own = OwnExperts(
        others=tuple({key: tensors[name] for key, name in expert.items()} for expert in experts[1:]),
        rows=tuple(tensors[name] for name in routers),
        top_k=chosen.top_k,
        renormalise=chosen.renormalise,
    )
    return twin, own


def experts_before(rule: Mapping[str, Any] | None, tensors: Sources) -> int:
    """How many experts of a composite are the base's own, given what its config says of them.

    Raises:
        ValueError: it says nothing sensible.
    """
    count = 1 if rule is None else rule["experts"]
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= max(len(tensors), 1):
        raise ValueError(f"{count!r} experts of the base, and {len(tensors)} tensors in all")
    return count


def _first(rows: Source, count: int) -> Source:
    """The first ``count`` rows; the source as it is if there are no more."""
    return rows if rows.shape[0] == count else stacked([rows.row(number) for number in range(count)])


def _idle(form: MoEFormat, body: Mapping[str, Any]) -> set[str]:
    layers, hidden = range(int(body["num_hidden_layers"])), int(body["hidden_size"])
    return {name for layer in layers for name in form.idle_shapes(layer, hidden)}


def _require(form: MoEFormat, expected: list[str], tensors: Sources, where: str) -> None:
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise CheckpointError(
            f"base {where}",
            why=f"tensors are missing ({len(missing)}), the first is '{missing[0]}'",
            mend=_APART.format(form=form.model_type),
        )


def _refuse_others(form: MoEFormat, expected: list[str], body: Mapping[str, Any], tensors: Sources, where: str) -> None:
    """Refuse what lies in a feed-forward block and belongs to no plain mixture, such as biases."""
    known = {*expected, *_idle(form, body)}
    block = form.router.format(layer=0).split(".")[3]
    strange = sorted(name for name in tensors if f".{block}." in name and name not in known)
    if strange:
        raise CheckpointError(
            f"tensor '{strange[0]}' of base {where}",
            why=f"a plain {form.model_type} mixture has none of that name",
            mend="Use a base whose layers are plain mixtures, or a dense base.",
        )


def _require_dtype(routers: list[str], tensors: Sources, dtype: Dtype, where: str) -> None:
    """Refuse rows of another dtype than the weights: parties' rows are stacked upon them."""
    for name in routers:
        if tensors[name].dtype != dtype:
            raise CheckpointError(
                f"tensor '{name}' of base {where}",
                why=f"it is {tensors[name].dtype}, and the weights are {dtype}",
                mend="Use a checkpoint that was saved in one dtype.",
            )


def _check_shapes(
    experts: list[dict[tuple[int, Role], str]],
    routers: list[str],
    body: Mapping[str, Any],
    tensors: Sources,
    where: str,
) -> None:
    hidden, width = int(body["hidden_size"]), int(body["intermediate_size"])
    due = {name: (len(experts), hidden) for name in routers}
    for expert in experts:
        due |= {name: (hidden, width) if key[1] == "down_proj" else (width, hidden) for key, name in expert.items()}
    for name, shape in due.items():
        if tensors[name].shape != shape:
            raise CheckpointError(
                f"tensor '{name}' of base {where}",
                why=f"it has shape {list(tensors[name].shape)}, and config.json says {list(shape)}",
                mend="Fetch the checkpoint again.",
            )
