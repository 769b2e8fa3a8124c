"""What a composed model is made of, before it is a model or a checkpoint.

Three kinds, after what is composed:

* ``Blend``: weights. One dense model, base + sum_i w_i delta_i, or another rule over the differences.
* ``Experts``: layers. One body, each party's feed-forward tensors, a router.
* ``Members``: outputs. The base and each party's whole model, and the rule that mixes their predictions.

Each knows its parties, can lose one (``without``), and turns into a ``Checkpoint``: the config of the model class that
runs it, and its tensors by shard. Model and export come from the same table, so they cannot disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

from quiltwork.errors import ExportError, InvalidOption
from quiltwork.models.checkpoint import ROUTER, SHARED, Checkpoint, party_shard, portable_config
from quiltwork.models.discriminants import Discriminants
from quiltwork.models.families import Family, Role, family_of
from quiltwork.models.merging import Change, Elementwise, Linear
from quiltwork.models.moe_formats import ROUTING
from quiltwork.models.narrow import padded
from quiltwork.models.own_experts import OwnExperts
from quiltwork.models.routers import Evidence, Rows
from quiltwork.models.routing import Routing
from quiltwork.models.slots import BASE_SLOT, slot_key, slot_keys
from quiltwork.models.sources import TORCH_NAMES, Source, Sources, total
from quiltwork.streaming.layout import Dtype

if TYPE_CHECKING:
    from torch import Tensor

Layout = Literal["portable", "native"]
FFN = Mapping[tuple[int, Role], Source]


@dataclass(frozen=True)
class DenseBody:
    """The base as an assembly sees it: config, family and tensors.

    Attributes:
        config: config.json of the dense model, portable.
        tensors: all its tensors by name.
        own: the experts that a base which is a mixture has besides; None for a dense one.
    """

    config: Mapping[str, Any]
    tensors: Sources
    own: OwnExperts | None = None

    @property
    def family(self) -> Family:
        """The row of the table of families."""
        return family_of(self.config)

    @property
    def dtype(self) -> Dtype:
        """Type of the weights."""
        return next(iter(self.tensors.values())).dtype


def add_deltas(base: Source, deltas: list[tuple[float, Source]]) -> Source:
    """base + sum_i w_i delta_i, summed in float64 in the order given, rounded once to the base's dtype."""
    return total([(1.0, base), *deltas], base.dtype)


def merge_deltas(rule: Elementwise, name: str, base: Source, deltas: list[tuple[str, float, Source]]) -> Source:
    """base + rule(differences of (party, weight)), in float64, rounded once to the base's dtype."""

    def load() -> Tensor:
        changes = [Change(party, weight, delta.load().double()) for party, weight, delta in deltas]
        start = base.load()
        return (start.double() + rule.merge(name, changes)).to(start.dtype)

    return Source(base.dtype, base.shape, load)


@dataclass(frozen=True)
class Blend:
    """One dense model: the base and what a rule makes of the parties' differences.

    Attributes:
        body: the base.
        deltas: each party's difference from the base, by tensor.
        weights: each party's weight, as the rule reads it.
        rule: how differences become one; the weighted mean unless stated.
    """

    body: DenseBody
    deltas: Mapping[str, Sources]
    weights: Mapping[str, float]
    rule: Linear | Elementwise = Linear()  # noqa: RUF009 - frozen

    @property
    def parties(self) -> tuple[str, ...]:
        """The parties, sorted."""
        return tuple(sorted(self.deltas))

    def without(self, party: str) -> Blend:
        """The blend of the other parties."""
        return replace(
            self,
            deltas={p: d for p, d in self.deltas.items() if p != party},
            weights={p: w for p, w in self.weights.items() if p != party},
        )

    def checkpoint(self, layout: Layout) -> Checkpoint:  # noqa: ARG002 - a dense model is portable as it is
        """A checkpoint of the base's own architecture."""
        tensors = {name: self._merged(name, source) for name, source in self.body.tensors.items()}
        return Checkpoint(self.body.config, {"model.safetensors": tensors})

    def _merged(self, name: str, source: Source) -> Source:
        if isinstance(self.rule, Linear):
            share = self.rule.coefficients(self.weights)
            return add_deltas(source, [(share[p], self.deltas[p][name]) for p in self.parties])
        deltas = [(p, self.weights[p], self.deltas[p][name]) for p in self.parties]
        return merge_deltas(self.rule, name, source, deltas)


@dataclass(frozen=True)
class Experts:
    """One body, each party's feed-forward tensors, a router.

    Attributes:
        body: the base; its own FFN is slot 0.
        experts: each party's feed-forward tensors.
        router: rows, prefix evidence, or both.
    """

    body: DenseBody
    experts: Mapping[str, FFN]
    router: Routing

    @property
    def parties(self) -> tuple[str, ...]:
        """The parties, sorted; party i is slot 1 + i."""
        return tuple(sorted(self.experts))

    def without(self, party: str) -> Experts:
        """The experts of the other parties: one FFN a layer and one row fewer, nothing else changed."""
        remaining = {p: e for p, e in self.experts.items() if p != party}
        return replace(self, experts=remaining, router=self.router.without(party))

    def _slots(self) -> list[tuple[str, FFN]]:
        """(file, feed-forward tensors) of every slot, in order; all experts of a base that is a mixture come first."""
        family = self.body.family
        layers = range(int(self.body.config["num_hidden_layers"]))
        own = {(n, r): self.body.tensors[family.ffn_name(n, r)] for n in layers for r in family.moe.roles}
        others = self.body.own.others if self.body.own is not None else ()
        first = [(SHARED, ffn) for ffn in (own, *others)]
        return [*first, *((party_shard(p), self.experts[p]) for p in self.parties)]

    def _shared(self, prefix: str) -> dict[str, Source]:
        family = self.body.family
        layers = range(int(self.body.config["num_hidden_layers"]))
        ffn = {family.ffn_name(n, r) for n in layers for r in family.moe.roles}
        return {prefix + name: source for name, source in self.body.tensors.items() if name not in ffn}

    def _idle(self) -> dict[str, Source]:
        """The tensors without effect that the public format's class asks for."""
        layers, hidden = range(int(self.body.config["num_hidden_layers"])), int(self.body.config["hidden_size"])
        shapes = [self.body.family.moe.idle_shapes(layer, hidden) for layer in layers]
        return {name: Source.zeros(self.body.dtype, shape) for table in shapes for name, shape in table.items()}

    def checkpoint(self, layout: Layout) -> Checkpoint:
        """The checkpoint in the family's public mixture format, or in quiltwork's own.

        Raises:
            ExportError: the public format cannot hold the router, the base's feed-forward blocks have biases, or the
                model has no party left.
        """
        if not self.parties:
            raise ExportError("a mixture of no experts", why="every party is gone", mend="Use the base itself.")
        if self.body.config.get("mlp_bias"):
            raise ExportError(
                "config field 'mlp_bias' of the base",
                why="an ffn expert holds the weights of the feed-forward projections, and no biases",
                mend="Compose full experts: Soup, Ensemble, or PrefixEvidence with scope='full'.",
            )
        return self._portable() if layout == "portable" else self._native()

    def _portable(self) -> Checkpoint:
        moe, router = self.body.family.moe, self._plain_rows()
        own = self.body.own
        count = (1 if own is None else own.count) + len(self.parties)
        config = moe.config(
            self.body.config,
            experts=count,
            top_k=router.active(count),
            renormalise=router.renormalise,
            own=own.rule if own is not None else None,
        )
        shards: dict[str, dict[str, Source]] = {SHARED: self._shared("")}
        for slot, (file, ffn) in enumerate(self._slots()):
            shards.setdefault(file, {}).update(
                {
                    moe.expert.format(layer=layer, expert=slot, role=moe.roles[role]): self._wide(layer, role, source)
                    for (layer, role), source in ffn.items()
                }
            )
        # the idle tensors are made anew, and would keep a shared shard from being the same file as before
        shards[ROUTER] = self._idle() | {
            moe.router.format(layer=layer): router.stacked(self.parties, layer)
            for layer in range(int(self.body.config["num_hidden_layers"]))
        }
        if isinstance(self.router, Discriminants):
            config[ROUTING] = self.router.settings()
        return Checkpoint(portable_config(config, self.body.dtype), shards, beside=self.router.beside())

    def _plain_rows(self) -> Rows:
        """The router as a public format holds it.

        Raises:
            ExportError: it is more than rows.
        """
        name, rows = self.body.family.moe.model_type, self.router.in_rows()
        if rows is None:
            raise ExportError(
                f"the prefix-evidence router in a {name} checkpoint",
                why="the format holds one row an expert and layer, and this router is a state over the prefix",
                mend="Export native, or compose with learned_rows (LearnedRows), the nearest router the format holds.",
            )
        if not rows.plain:
            raise ExportError(
                f"a router with biases, offsets or unequal weights in a {name} checkpoint",
                why="the format holds rows only",
                mend="Export native, or compose with equal weights and LearnedRows(bias=False) or "
                "ResidualLDA(offsets=False).",
            )
        return rows

    def _wide(self, layer: int, role: Role, source: Source) -> Source:
        """A projection of the base's width: public formats have one for all experts."""
        return padded(source, self.body.tensors[self.body.family.ffn_name(layer, role)].shape)

    def _widths(self) -> dict[str, list[int]]:
        """Intermediate neurons of each party's experts, where one has fewer than the base."""
        widths = [self.experts[party][0, "up_proj"].shape[0] for party in self.parties]
        wide = self.body.tensors[self.body.family.ffn_name(0, "up_proj")].shape[0]
        return {"widths": widths} if set(widths) != {wide} else {}

    def _native(self) -> Checkpoint:
        shards: dict[str, dict[str, Source]] = {SHARED: self._shared("body.")}
        own = self.body.own
        keys = slot_keys(self.parties, 1 if own is None else own.count)
        for key, (file, ffn) in zip(keys, self._slots(), strict=True):
            shards.setdefault(file, {}).update(
                {
                    f"body.model.layers.{layer}.mlp.experts.{key}.{role}.weight": source
                    for (layer, role), source in ffn.items()
                }
            )
        router, parties = self.router, self.parties
        shards[ROUTER] = router.tensors(parties)
        settings = router.config(parties)
        config = native_config("quiltwork_moe", "QuiltworkMoEForCausalLM", self.body, parties, settings)
        config |= self._widths()
        if own is not None:
            config["own"] = own.rule
            if isinstance(router, Evidence):  # which weighs the base as a whole; its own rows say what happens within
                shards[SHARED] |= {f"body.model.layers.{n}.mlp.own.weight": rows for n, rows in enumerate(own.rows)}
        return Checkpoint(config, shards, beside=router.beside())


@dataclass(frozen=True)
class Members:
    """The base and each party's whole model, and the rule that mixes their predictions.

    Attributes:
        body: the base, member 0.
        models: each party's tensors, by name, complete.
        weighting: ``"uniform"``, ``"likelihood"``, or the evidence router.
        settings: top_k and temperature of uniform and likelihood weighting.
        weights: member weights by party, the base under the empty name.
    """

    body: DenseBody
    models: Mapping[str, Sources]
    weighting: Literal["uniform", "likelihood"] | Evidence
    settings: Mapping[str, Any]
    weights: Mapping[str, float]

    @property
    def parties(self) -> tuple[str, ...]:
        """The parties, sorted; party i is member 1 + i."""
        return tuple(sorted(self.models))

    def without(self, party: str) -> Members:
        """The other members."""
        return replace(
            self,
            models={p: m for p, m in self.models.items() if p != party},
            weighting=self.weighting.without(party) if isinstance(self.weighting, Evidence) else self.weighting,
            weights={p: w for p, w in self.weights.items() if p != party},
        )

    def checkpoint(self, layout: Layout) -> Checkpoint:
        """The checkpoint in quiltwork's own format.

        Raises:
            ExportError: a portable layout is asked for; no public format holds several whole models.
        """
        if layout == "portable":
            raise ExportError(
                "an ensemble of whole models in a portable checkpoint",
                why="no public format holds several models and a rule to mix them",
                mend="Export native, or compose a Soup or a MixtureOfExperts with LearnedRows.",
            )
        parties = self.parties
        shards: dict[str, Sources] = {SHARED: {f"members.{BASE_SLOT}.{n}": s for n, s in self.body.tensors.items()}}
        for party in parties:
            shards[party_shard(party)] = {f"members.{slot_key(party)}.{n}": s for n, s in self.models[party].items()}
        if isinstance(self.weighting, Evidence):
            settings = self.weighting.config(parties)
            shards[ROUTER] = self.weighting.tensors(parties)
        else:
            weights = [self.weights[slot] for slot in ("", *parties)]
            settings = {"kind": self.weighting, "weights": weights, **self.settings}
        config = native_config("quiltwork_ensemble", "QuiltworkEnsembleForCausalLM", self.body, parties, settings)
        return Checkpoint(config, shards)


class Assembly(Protocol):
    """What a composed model is made of, every party's share apart."""

    @property
    def parties(self) -> tuple[str, ...]:
        """The parties, sorted."""
        ...

    def without(self, party: str) -> Assembly:
        """The same of the other parties."""
        ...

    def checkpoint(self, layout: Layout) -> Checkpoint:
        """Config and tensors by shard; refuses a layout that cannot hold the model."""
        ...


def native_config(
    model_type: str, architecture: str, body: DenseBody, parties: tuple[str, ...], router: Mapping[str, Any]
) -> dict[str, Any]:
    """config.json of a native checkpoint."""
    name = TORCH_NAMES[body.dtype]
    return {
        "model_type": model_type,
        "architectures": [architecture],
        "parties": list(parties),
        "router": dict(router),
        "text_config": dict(body.config),
        "dtype": name,
        "torch_dtype": name,
        **{t: body.config.get(t) for t in ("bos_token_id", "eos_token_id", "pad_token_id")},
    }


def require_party(assembly: Assembly, party: str) -> None:
    """Refuse a party that is not in the assembly.

    Raises:
        InvalidOption: naming the parties that are.
    """
    if party not in assembly.parties:
        raise InvalidOption(
            f"party '{party}'",
            why="the composed model has no such party",
            mend=f"Its parties are: {', '.join(assembly.parties) or 'none'}.",
        )
