"""A saved mixture or ensemble, taken apart again: the inverse of ``Assembly.checkpoint``.

Each party's tensors lie in a shard of their own, named by the party or, in a public format, by the number of its slot;
beside them only the rows of the router say at which place it stood. So the parts come back exactly as they went in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from quiltwork.errors import CheckpointError, ExportError
from quiltwork.models import router_settings
from quiltwork.models.assembly import FFN, DenseBody, Experts, Members
from quiltwork.models.base import open_tensors
from quiltwork.models.families import FAMILIES, Family, Role, family_of, format_of
from quiltwork.models.json_files import read_json
from quiltwork.models.moe_formats import ORIGIN, ROUTING
from quiltwork.models.own_experts import OwnExperts, experts_before
from quiltwork.models.plain import require_sizes
from quiltwork.models.routers import Rows
from quiltwork.models.routing import Routing
from quiltwork.models.slots import BASE_SLOT, slot_key, slot_keys
from quiltwork.models.sources import Source, Sources
from quiltwork.models.unrouting import discriminants, native_evidence, native_routing

_NATIVE_EXPERT = "body.model.layers.{layer}.mlp.experts.{expert}.{role}.weight"


def disassemble(path: Path, parties: tuple[str, ...]) -> Experts | Members:
    """The assembly that a composed checkpoint was written from.

    Args:
        path: the checkpoint's directory.
        parties: its parties in slot order.

    Raises:
        ExportError: the checkpoint is a soup.
        CheckpointError: tensors are missing, or the config is not one that quiltwork writes.
    """
    config = read_json(path / "config.json")
    tensors = open_tensors(path)
    try:
        kind = config["model_type"]
        if kind == "quiltwork_ensemble":
            return _members(config, tensors, parties)
        if kind == "quiltwork_moe":
            return native_experts(config, tensors, parties, path)
        if format_of(config) is not None:
            return _portable_experts(FAMILIES[config[ORIGIN]["base"]["model_type"]], config, tensors, parties, path)
    except (KeyError, IndexError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise CheckpointError(
            f"'{path}'",
            why=f"it does not hold what its config announces ({error})",
            mend="Compose the model again; the directory may be incomplete.",
        ) from error
    raise ExportError(
        f"the composite in '{path}'",
        why="it is one dense model, a sum in which no party can be told from another",
        mend="Run `quiltwork compose` with the contributions of the remaining parties.",
    )


def _slots(
    template: str, roles: Mapping[Role, str], tensors: Sources, layers: int, slots: Iterable[int | str]
) -> list[dict[tuple[int, Role], Source]]:
    return [
        {
            (layer, role): tensors[template.format(layer=layer, expert=slot, role=name)]
            for layer in range(layers)
            for role, name in roles.items()
        }
        for slot in slots
    ]


def _body(
    config: Mapping[str, Any], family: Family, tensors: Sources, prefix: str, ffn: FFN, own: OwnExperts | None
) -> DenseBody:
    """The base: everything outside expert layers, slot 0's feed-forward tensors, and its own further experts."""
    outside = re.compile(r"\.(mlp|block_sparse_moe)\.|^evidence\.")
    table = {n.removeprefix(prefix): s for n, s in tensors.items() if not outside.search(n)}
    table |= {family.ffn_name(layer, role): source for (layer, role), source in ffn.items()}
    require_sizes(config, family, table, "a mixture")
    return DenseBody(config, dict(sorted(table.items())), own)


def _portable_experts(
    family: Family, config: dict[str, Any], tensors: Sources, parties: tuple[str, ...], path: Path
) -> Experts:
    moe = family.moe
    rule = config[ORIGIN].get("own")
    layers, first = int(config["num_hidden_layers"]), experts_before(rule, tensors)
    count = first + len(parties)
    if config[moe.count_field] != count:
        raise KeyError(f"{config[moe.count_field]} experts for {len(parties)} parties")
    slots = _slots(moe.expert, moe.roles, tensors, layers, range(count))
    dense = moe.dense_config(config)
    top_k = config["num_experts_per_tok"]
    rows = [tensors[moe.router.format(layer=layer)] for layer in range(layers)]
    own = OwnExperts.of(rule, slots[:first], rows) if rule is not None else None
    router_settings.choice(config, "num_experts_per_tok")
    weights = dict.fromkeys(("", *parties), 1.0)
    if ROUTING in config:
        router: Routing = discriminants(config[ROUTING], parties, weights, rows[0].dtype, path)
    else:
        router = Rows(
            rows={p: [r.row(first + i) for r in rows] for i, p in enumerate(parties)},
            offsets={},
            own=list(own.rows) if own is not None else None,
            top_k=None if top_k == count else top_k,
            renormalise=config.get("norm_topk_prob", True) or top_k == count,
            weights=weights,
        )
    body = _body(dense, family, tensors, "", slots[0], own)
    return Experts(body, dict(zip(parties, slots[first:], strict=True)), router)


def native_experts(
    config: dict[str, Any], tensors: Sources, parties: tuple[str, ...], moments: Path | None = None
) -> Experts:
    """The mixture that a native config and its tensors describe.

    Args:
        config: config.json.
        tensors: those of the model.
        parties: in slot order.
        moments: the directory with what computed rows are computed of; None takes the rows as they are.

    Raises:
        KeyError, ValueError: they do not belong together.
    """
    dense = config["text_config"]
    family = FAMILIES[dense["model_type"]]
    layers = int(dense["num_hidden_layers"])
    roles: dict[Role, str] = {role: role for role in family.moe.roles}
    rule = config.get("own")
    first = experts_before(rule, tensors)
    slots = _slots(_NATIVE_EXPERT, roles, tensors, layers, slot_keys(parties, first))
    own = None
    if rule is not None:
        kind = "own" if config["router"]["kind"] == "evidence" else "router"
        rows = [tensors[f"body.model.layers.{layer}.mlp.{kind}.weight"] for layer in range(layers)]
        due = first + (len(parties) if kind == "router" else 0)
        if any(one.shape[0] != due for one in rows):
            raise ValueError(f"rows of {rows[0].shape[0]} experts, and {due} are due")
        own = OwnExperts.of(rule, slots[:first], rows)
    router = native_routing(config["router"], tensors, parties, layers, moments, own)
    body = _body(dense, family, tensors, "body.", slots[0], own)
    return Experts(body, dict(zip(parties, slots[first:], strict=True)), router)


def _members(config: dict[str, Any], tensors: Sources, parties: tuple[str, ...]) -> Members:
    settings = config["router"]
    router_settings.weights(settings["weights"])
    weights = dict(zip(("", *parties), settings["weights"], strict=True))
    models: dict[str, dict[str, Source]] = {key: {} for key in slot_keys(parties)}
    for name, source in tensors.items():
        if name.startswith("members."):
            key, rest = name.removeprefix("members.").split(".", 1)
            models[key][rest] = source
    evidence = settings["kind"] == "evidence"
    if not evidence:
        _require_weighting(settings)
    dense = config["text_config"]
    for member in models.values():
        require_sizes(dense, family_of(dense), member, "an ensemble")
    return Members(
        body=DenseBody(dense, models[BASE_SLOT]),
        models={party: models[slot_key(party)] for party in parties},
        weighting=native_evidence(settings, tensors, parties, weights) if evidence else settings["kind"],
        settings={} if evidence else {name: settings[name] for name in ("top_k", "temperature")},
        weights=weights,
    )


def _require_weighting(settings: Mapping[str, Any]) -> None:
    """Refuse settings of uniform and likelihood weights outside their domain, with a ValueError."""
    if settings["kind"] not in ("uniform", "likelihood"):
        raise ValueError(f"weights of kind {str(settings['kind'])[:50]!a}")
    router_settings.choice(settings)
    router_settings.positive(settings["temperature"], "temperature")
