"""A composed model's bill of materials: CycloneDX 1.6, for programs that keep account of what models are made of.

    composite  =  its files, each with its SHA-256
    ancestors  =  base, contributions       by digest, with party, kind and licence

It says what quiltwork.json says, in a form that others read. The same directory gives the same bytes: no time is
stated, and the serial number follows from the files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType, Pedigree
from cyclonedx.model.license import DisjunctiveLicense, LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.spdx import fixup_id, is_expression

from quiltwork.composite.provenance import PROVENANCE, read_provenance
from quiltwork.files import storage_error
from quiltwork.models.json_files import read_json

_MODEL = ComponentType.MACHINE_LEARNING_MODEL


def bill_of_materials(path: str | Path) -> str:
    """The bill of a saved composite, as JSON.

    Args:
        path: its directory; that its files are sound is checked by whoever opens it.

    Raises:
        CheckpointError: it is no composite.
        StorageError: a file cannot be read.
    """
    path = Path(path)
    provenance, told = read_provenance(path), read_json(path / PROVENANCE)
    parts = [_contribution(entry) for entry in (*told["contributions"], *told.get("inherited", []))]
    if provenance.base is not None:
        parts.insert(0, _base(provenance.base, provenance.base_name))
    files = [_file(path, name) for name in sorted(p for p in path.rglob("*") if p.is_file())]
    whole = _whole(told, files, parts)
    content = hashlib.sha256("".join(f"{one.name}\0{_first_hash(one)}\n" for one in files).encode()).hexdigest()
    bom = Bom(components=parts, metadata=BomMetaData(component=whole), serial_number=uuid5(NAMESPACE_URL, content))
    bom.register_dependency(whole, parts)
    return _timeless(JsonV1Dot6(bom).output_as_string())


def _whole(told: Mapping[str, Any], files: Iterable[Component], parts: Iterable[Component]) -> Component:
    stated = {name: told.get(name) for name in ("method", "layout", "digest")}
    options = told.get("options")
    if isinstance(options, dict):
        stated |= {f"option.{name}": json.dumps(value) for name, value in options.items()}
    return Component(
        name=f"composed by {told['method']}",
        type=_MODEL,
        bom_ref="composite",
        components=files,
        pedigree=Pedigree(ancestors=[_ancestor(part) for part in parts]),
        properties=_properties(stated),
    )


def _base(digest: str, name: str | None) -> Component:
    return Component(name=name or "base", type=_MODEL, bom_ref=f"base:{digest}", hashes=_hashes(digest))


def _contribution(entry: Mapping[str, Any]) -> Component:
    return Component(
        name=f"contribution of {entry['party']}",
        type=_MODEL,
        bom_ref=f"contribution:{entry['digest']}",
        hashes=_hashes(entry["digest"]),
        licenses=[_licence(entry["licence"])],
        properties=_properties({"party": entry["party"], "kind": entry.get("kind"), "digest": entry["digest"]}),
    )


def _ancestor(part: Component) -> Component:
    """The same by name and hash: a part is listed once, with all there is to say of it."""
    return Component(name=part.name, type=part.type, bom_ref=f"ancestor-{part.bom_ref.value}", hashes=part.hashes)


def _file(root: Path, path: Path) -> Component:
    name = path.relative_to(root).as_posix()
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise storage_error(path, error) from error
    return Component(name=name, type=ComponentType.FILE, bom_ref=f"file:{name}", hashes=_hashes(digest))


def _hashes(digest: str) -> list[HashType]:
    return [HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))]


def _first_hash(component: Component) -> str:
    return str(next(iter(component.hashes)).content)


def _licence(text: str) -> DisjunctiveLicense | LicenseExpression:
    known = fixup_id(text)
    if known is not None:
        return DisjunctiveLicense(id=known)
    return LicenseExpression(text) if is_expression(text) else DisjunctiveLicense(name=text)


def _properties(stated: Mapping[str, object]) -> list[Property]:
    return [Property(name=f"quiltwork:{name}", value=str(value)) for name, value in stated.items() if value is not None]


def _timeless(text: str) -> str:
    """The library states the present time; a bill is of a directory, whenever it is drawn."""
    value = json.loads(text)
    value["metadata"].pop("timestamp", None)
    return json.dumps(value, indent=2, sort_keys=True) + "\n"
