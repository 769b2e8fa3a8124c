"""Nothing undeclared leaves, and nothing declared is missing.

For a manifest m with parts P(m), those of its kind and of its statistics::

    files(m)    == {p.file for p in P(m)}
    tensors(f)  == union of required(p) over p in P(m) with p.file == f
                   plus any names full.*, at least one, where P(m) holds the open part full
    bytes(f)    == header(tensors(f)) + sum of product(shape) * itemsize
    releases(m) <= {event.released for event in privacy}
    unit(e)     == the kind's own, a document or a row, for every event e of a known mechanism

Each breach is refused by the name of the file, tensor or part.
"""

from __future__ import annotations

from quiltwork.contribution import header
from quiltwork.contribution.kinds import Part, Requirement
from quiltwork.contribution.manifest import REWRITE, Manifest
from quiltwork.contribution.manifest_fields import PayloadFile, TensorEntry
from quiltwork.errors import MalformedContribution
from quiltwork.privacy.events import OtherEvent


def parts_of(manifest: Manifest) -> tuple[Part, ...]:
    """Everything that leaves with this contribution, in a fixed order."""
    return manifest.parts()


def releases(manifest: Manifest) -> tuple[str, ...]:
    """Names that need a privacy event: every part, and ``training`` where a loss on private data is told."""
    names = tuple(part.name for part in parts_of(manifest))
    return (*names, "training") if manifest.tells_training() else names


def needs_of(manifest: Manifest) -> dict[str, Requirement | None]:
    """The requirement on each tensor of the closed parts."""
    return {name: need for part in parts_of(manifest) for name, need in (part.required or {}).items()}


def check_declared(manifest: Manifest) -> None:
    """Refuse a manifest whose payload is not exactly what its kind and statistics require.

    Raises:
        MalformedContribution: names the file, tensor or part.
    """
    parts = parts_of(manifest)
    names = [part.name for part in parts]
    if not parts:
        raise _undeclared(f"kind '{manifest.kind}'", "the contribution holds nothing", "Release at least one part.")
    for name in names:
        if names.count(name) > 1:
            raise _undeclared(f"statistic '{name}'", "it is declared twice", "Declare it once.")
    _check_files(manifest, parts)
    for file, payload in manifest.payload.items():
        _check_tensors(file, payload, tuple(part for part in parts if part.file == file))
        _check_size(file, payload)
    _check_priced(manifest)
    _check_units(manifest)


def _undeclared(what: str, why: str, mend: str = REWRITE) -> MalformedContribution:
    return MalformedContribution(what, why=why, mend=mend)


def _check_files(manifest: Manifest, parts: tuple[Part, ...]) -> None:
    due = {part.file: part.name for part in parts}
    for file in sorted(due.keys() - manifest.payload.keys()):
        raise _undeclared(f"file '{file}'", f"part '{due[file]}' requires it, and the payload does not declare it")
    for file in sorted(manifest.payload.keys() - due.keys()):
        raise _undeclared(f"file '{file}'", "the payload declares it, and no part of this contribution uses it")


def _check_tensors(file: str, payload: PayloadFile, parts: tuple[Part, ...]) -> None:
    required = {name: need for part in parts for name, need in (part.required or {}).items()}
    opened = tuple(part.name for part in parts if part.required is None)
    for name, need in required.items():
        if name not in payload.tensors:
            raise _undeclared(f"tensor '{name}' in {file}", "it is required, and the payload does not declare it")
        _check_entry(file, name, payload.tensors[name], need)
    for name in sorted(payload.tensors.keys() - required.keys()):
        part, _, rest = name.partition(".")
        if part not in opened or not rest:
            raise _undeclared(f"tensor '{name}' in {file}", "it is declared, and no part of this contribution has it")
    for part in opened:
        if not any(name.startswith(f"{part}.") for name in payload.tensors):
            raise _undeclared(f"part '{part}' in {file}", "it holds no tensor")


def _check_entry(file: str, name: str, entry: TensorEntry, need: Requirement) -> None:
    what = f"tensor '{name}' in {file}"
    if entry.shape != need.shape:
        raise _undeclared(what, f"its shape is {list(entry.shape)}, and {list(need.shape)} is required")
    if entry.dtype not in need.dtypes:
        raise _undeclared(what, f"its dtype is {entry.dtype}, and {' or '.join(need.dtypes)} is required")


def _check_size(file: str, payload: PayloadFile) -> None:
    types = payload.types()
    size = len(header.build(types)) + sum(header.data_bytes(*type_) for type_ in types.values())
    if payload.bytes != size:
        raise _undeclared(f"file '{file}'", f"it declares {payload.bytes} bytes, and its tensors make {size}")


def _check_priced(manifest: Manifest) -> None:
    priced = {event.released for event in manifest.privacy}
    for name in releases(manifest):
        if name not in priced:
            raise _undeclared(
                f"'{name}'",
                "it leaves the party, and no privacy event says by which mechanism",
                f"Add an event with released='{name}'; a release without noise is an ExactEvent.",
            )


def _check_units(manifest: Manifest) -> None:
    """Prices of different units do not add up, so a contribution has one."""
    for event in manifest.privacy:
        if not isinstance(event, OtherEvent) and event.unit != manifest.protects:
            raise _undeclared(
                f"the privacy event of '{event.released}'",
                f"its unit is a {event.unit}, and that of kind '{manifest.kind}' is a {manifest.protects}",
                f"State the event with unit='{manifest.protects}', and with that unit's sensitivity.",
            )
