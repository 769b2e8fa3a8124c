"""A session's records as JSON: the same facts, sorted, and nothing judged."""

from __future__ import annotations

from typing import Any

from quiltwork.session.channel import Direction
from quiltwork.session.frames import Schema
from quiltwork.session.split.records import SplitRecords

_WAYS: tuple[Direction, Direction] = ("down", "up")


def facts(records: SplitRecords) -> dict[str, Any]:
    """What `SplitRecords` holds; bytes by party, direction and kind, and digests of the transcripts."""
    log = records.log
    return {
        "mode": records.mode,
        "parties": list(records.parties),
        "label_party": records.label_party,
        "terms": {p: {"down": _schema(t.down), "up": _schema(t.up)} for p, t in sorted(records.terms.items())},
        "log": [
            {"party": party, "direction": way, "kind": kind.name, "frames": log.frames[party, way, kind], "bytes": size}
            for (party, way, kind), size in sorted(log.sizes.items())
        ],
        "transcripts": {p: {way: log.digest(p, way) for way in _WAYS} for p in sorted(records.terms)},
        "formula": {p: {way: records.formula.bytes(p, way) for way in _WAYS} for p in sorted(records.terms)},
        "sealing": dict(sorted(records.sealing.items())),
        "events": [{"party": own.party, "events": [_event(event) for event in own.events]} for own in records.events],
        "digests": dict(sorted(records.digests.items())),
        "dependencies": {p: sorted(inputs) for p, inputs in sorted(records.dependencies.items())},
        "rounds": records.rounds,
        "losses": [dict(sorted(losses.items())) for losses in records.losses],
        "precision": records.precision,
        "stale": records.stale,
        "seed": records.seed,
        "threads": records.threads,
        "left": list(records.left),
        "warnings": list(records.warnings),
    }


def _schema(schema: Schema) -> dict[str, Any]:
    return {kind.name: {"dtype": spec.dtype, "shape": list(spec.shape)} for kind, spec in sorted(schema.items())}


def _event(event: object) -> Any:
    dump = getattr(event, "model_dump", None)
    return dump(mode="json") if callable(dump) else repr(event)
