"""A contribution in plain values, for a person or a program that wants to look before composing.

Everything here is what the contribution declares. It says nothing about whether a declared event took
place, and no price: that is the accountant's, who needs to be told a delta.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from quiltwork.contribution import header
from quiltwork.contribution.declared import parts_of, releases
from quiltwork.contribution.manifest import Manifest
from quiltwork.contribution.sealed import Contribution

_KINDS_OWN = ("base", "table", "task", "method", "statistics", "training")


def describe(contribution: Contribution) -> dict[str, Any]:
    """A summary that JSON can hold.

    Returns:
        party, kind, version, digest, bytes, parts (each with its file, number of tensors and elements, bytes), what the
        kind stands on (``base``, ``table`` with names and units, ``task``), method (of a graph how many operators of
        which name), where the kind has them statistics and training, releases (what needs a privacy event), privacy,
        licence, card.
    """
    manifest = contribution.manifest
    declared = manifest.model_dump(mode="json", exclude={"payload"})
    own = {name: declared[name] for name in _KINDS_OWN if name in declared}
    if "graph" in own["method"]:
        own["method"] |= {"graph": _graph(own["method"]["graph"])}
    return {
        "party": manifest.party,
        "kind": manifest.kind,
        "version": manifest.version,
        "digest": manifest.digest,
        "bytes": contribution.bytes,
        "parts": _parts(manifest),
        **own,
        "releases": list(releases(manifest)),
        "privacy": declared["privacy"],
        "licence": manifest.licence,
        "card": manifest.card,
    }


def _graph(graph: dict[str, Any]) -> dict[str, Any]:
    """How often each operator occurs, the most frequent first."""
    found = Counter(node["op"] for node in graph["nodes"])
    return {"nodes": len(graph["nodes"]), "operators": dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))}


def _parts(manifest: Manifest) -> dict[str, dict[str, Any]]:
    return {part.name: _part(manifest, part.name, part.file) for part in parts_of(manifest)}


def _part(manifest: Manifest, name: str, file: str) -> dict[str, Any]:
    """Size of one part; ``bytes`` counts its values, without its share of the file's header."""
    entries = manifest.payload[file].tensors
    mine = [entry for tensor, entry in entries.items() if tensor.startswith(f"{name}.")]
    size = sum(header.data_bytes(entry.dtype, entry.shape) for entry in mine)
    elements = sum(header.data_bytes(entry.dtype, entry.shape) // header.ITEM_BYTES[entry.dtype] for entry in mine)
    return {
        "file": file,
        "tensors": len(mine),
        "elements": elements,
        "bytes": size,
        "dtypes": sorted({entry.dtype for entry in mine}),
    }
