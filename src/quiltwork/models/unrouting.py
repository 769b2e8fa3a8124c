"""A saved router, taken apart again: each party's share of it, as it went in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quiltwork.models import router_settings
from quiltwork.models.discriminants import Discriminants, moments_shard
from quiltwork.models.own_experts import OwnExperts
from quiltwork.models.residual import ResidualMoments
from quiltwork.models.routers import EVIDENCE_SETTINGS, Evidence, Rows
from quiltwork.models.routing import Routing, RowsAndEvidence
from quiltwork.models.sources import Source, Sources, open_file
from quiltwork.streaming.layout import Dtype

_ROUTER = "body.model.layers.{layer}.mlp.router.{kind}"


def native_routing(
    settings: Mapping[str, Any],
    tensors: Sources,
    parties: tuple[str, ...],
    layers: int,
    moments: Path | None,
    own: OwnExperts | None = None,
) -> Routing:
    """The router of a native mixture.

    Args:
        settings: the router's entry in config.json.
        tensors: those of the model.
        parties: in slot order.
        layers: how many.
        moments: the directory with what computed rows are computed of; None takes the rows as they are.
        own: the experts of a base that is a mixture.

    Raises:
        KeyError, ValueError: they do not belong together.
        CheckpointError: moments are missing or cannot be read.
    """
    router_settings.weights(settings["weights"])
    weights = dict(zip(("", *parties), settings["weights"], strict=True))
    if settings["kind"] == "evidence":
        return native_evidence(settings, tensors, parties, weights)
    if settings["kind"] == "rows":
        return _rows(settings, tensors, parties, layers, moments, own)
    rows = _rows(settings["rows"], tensors, parties, layers, moments)
    evidence = native_evidence(settings["evidence"], tensors, parties, weights)
    return RowsAndEvidence(rows, evidence, router_settings.number(settings["share"], "share", least=0.0))


def native_evidence(
    settings: Mapping[str, Any], tensors: Sources, parties: tuple[str, ...], weights: Mapping[str, float]
) -> Evidence:
    """The evidence of a native mixture or ensemble; arguments as of `native_routing`, and the slot weights."""
    rows = tensors["evidence.rows"]
    router_settings.evidence(settings, rows.shape, len(parties))
    public = int(settings["public"])
    return Evidence(
        rows={p: rows.row(public + i) for i, p in enumerate(parties)},
        public=rows.row(0) if public else None,
        settings={name: settings[name] for name in EVIDENCE_SETTINGS},
        weights=weights,
    )


def discriminants(
    settings: Mapping[str, Any], parties: tuple[str, ...], weights: Mapping[str, float], dtype: Dtype, place: Path
) -> Discriminants:
    """What computed rows are computed of, from the files beside a checkpoint.

    Raises:
        KeyError, ValueError: the settings lack something, or one is outside its domain.
        CheckpointError: a file is missing or cannot be read.
    """

    router_settings.discriminants(settings)

    def opened(party: str | None, rows: int) -> ResidualMoments:
        return ResidualMoments.of(open_file(place / moments_shard(party)), rows)

    return Discriminants(
        moments={party: opened(party, settings["rows"][party]) for party in parties},
        public=opened(None, settings["public_rows"]),
        dtype=dtype,
        covariance=settings["covariance"],
        shrinkage=settings["shrinkage"],
        temperature=settings["temperature"],
        offset=settings["offset"],
        top_k=settings["top_k"],
        renormalise=settings["renormalise"],
        weights=weights,
    )


def _rows(
    settings: Mapping[str, Any],
    tensors: Sources,
    parties: tuple[str, ...],
    layers: int,
    moments: Path | None,
    own: OwnExperts | None = None,
) -> Rows | Discriminants:
    router_settings.rows(settings)
    weights = dict(zip(("", *parties), settings["weights"], strict=True))
    stacked = _stacked(tensors, "weight", layers)
    if moments is not None and "discriminants" in settings:
        return discriminants(settings["discriminants"], parties, weights, stacked[0].dtype, moments)
    offsets = _stacked(tensors, "bias", layers) if settings["bias"] else []
    first = 1 if own is None else own.count
    return Rows(
        rows={p: [rows.row(first + i) for rows in stacked] for i, p in enumerate(parties)},
        offsets={p: [o.row(first + i).reshaped((1,)) for o in offsets] for i, p in enumerate(parties)}
        if offsets
        else {},
        own=list(own.rows) if own is not None else None,
        top_k=settings["top_k"],
        renormalise=settings["renormalise"],
        weights=weights,
    )


def _stacked(tensors: Sources, kind: str, layers: int) -> list[Source]:
    return [tensors[_ROUTER.format(layer=layer, kind=kind)] for layer in range(layers)]
