"""Writing a contribution, and reading one that a stranger wrote.

Both sides keep one rule: a directory is a contribution as a whole or not at all. `write` checks the draft
before it writes a byte and renames the directory into place when it is complete. `read` checks from small
to large (names, manifest, sizes, payload), and its outcome is a `Contribution` or a `ContributionError`,
whatever the bytes are::

    read(write(target, draft).path) == write(target, draft)
    same draft  ->  same bytes, same digest

Reading executes nothing: JSON under a schema and raw numbers, no pickle, no name from the file imported.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from quiltwork.contribution import header, payload
from quiltwork.contribution.canonical import shown
from quiltwork.contribution.declared import check_declared, needs_of, parts_of
from quiltwork.contribution.directory import Directory, open_directory, refusal
from quiltwork.contribution.kinds import Statistic
from quiltwork.contribution.manifest import (
    FILE,
    MANIFESTS,
    MAX_BYTES,
    SIGNATURE,
    BaseReference,
    Manifest,
    Method,
    TrainingSummary,
    canonical_bytes,
    digest_of,
    parse,
    schema_refusal,
)
from quiltwork.contribution.manifest_fields import PayloadFile
from quiltwork.contribution.networks import NetworkStatistic, TaskReference
from quiltwork.contribution.payload import Array
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.tables import TableReference, TableStatistic
from quiltwork.errors import InvalidOption, MalformedContribution, UnsupportedContribution
from quiltwork.files import new_directory
from quiltwork.privacy.events import Event

_UNKNOWN = "sha256:" + "0" * 64


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What a party wants to release.

    Attributes:
        party: its name.
        method: of a language model (`ExpertMethod`, `StatisticsMethod`), of a table (`MixtureMethod`,
            `LikelihoodsMethod`), or about networks (``networks``, ``stitching``); it decides the kind.
        tensors: every tensor by name; the first word of the name is its part, which decides the file.
        licence: under which the contribution may be used, best as an SPDX expression.
        base: what it started from, for the kinds of language models.
        table: what its rows are of, for the kinds of tables.
        task: what goes in and comes out, for the kinds about networks.
        training: how the weights were trained.
        statistics: the declared statistics.
        privacy: one event or more for each part, and for ``training`` where losses are told.
        card: free text for people.
    """

    party: str
    method: Method
    tensors: Mapping[str, Array]
    licence: str
    base: BaseReference | None = None
    table: TableReference | None = None
    task: TaskReference | None = None
    training: TrainingSummary | None = None
    statistics: Sequence[Statistic | TableStatistic | NetworkStatistic] = ()
    privacy: Sequence[Event] = ()
    card: str = ""


def write(target: str | os.PathLike[str], draft: Draft, *, overwrite: bool = False) -> Contribution:
    """Check a draft and write it as the directory ``target``.

    Args:
        target: must not exist, unless ``overwrite``.
        draft: what to release.
        overwrite: replace what is there, after the new directory is complete.

    Returns:
        the contribution, as `read` would give it.

    Raises:
        MalformedContribution: the draft does not follow docs/format.md; the field, tensor or part is named.
        StorageError: the target exists, or the file system refuses. Nothing is left behind.
    """
    groups = _grouped(draft)
    manifest = _manifest(draft, {file: _declare(tensors) for file, tensors in groups.items()})
    _require_readable(manifest)
    needs = needs_of(manifest)
    with new_directory(target, overwrite=overwrite) as partial:
        written = {file: payload.write(partial / file, tensors, needs) for file, tensors in groups.items()}
        manifest = _manifest(draft, written)
        (partial / FILE).write_bytes(canonical_bytes(manifest))
    return Contribution(Path(target), manifest)


def _require_readable(manifest: Manifest) -> None:
    """Send the draft's manifest through the reader's own gate, before anything is written."""
    data = canonical_bytes(manifest)
    if len(data) > MAX_BYTES:
        raise MalformedContribution(
            FILE,
            why=f"it would hold more than {MAX_BYTES} bytes",
            mend="Release fewer tensors or a shorter card.",
        )
    check_declared(parse(data))


def _grouped(draft: Draft) -> dict[str, dict[str, Array]]:
    """The draft's tensors by file, according to the part that each name starts with."""
    files = {part.name: part.file for part in parts_of(_manifest(draft, {}))}
    groups: dict[str, dict[str, Array]] = {}
    for name in sorted(draft.tensors):
        part = name.partition(".")[0]
        if part not in files:
            raise MalformedContribution(
                f"tensor {shown(name)}",
                why="it belongs to no part that the draft declares",
                mend=f"Declared are: {', '.join(sorted(files)) or 'none'}. Declare its part or leave it out.",
            )
        groups.setdefault(files[part], {})[name] = draft.tensors[name]
    return groups


def _declare(tensors: Mapping[str, Array]) -> dict[str, Any]:
    """What a file will declare, with its digests still open."""
    types = {name: payload.type_of(name, array) for name, array in tensors.items()}
    entries = {name: {"dtype": dtype, "shape": shape, "digest": _UNKNOWN} for name, (dtype, shape) in types.items()}
    size = len(header.build(types)) + sum(header.data_bytes(*type_) for type_ in types.values())
    return {"bytes": size, "digest": _UNKNOWN, "tensors": entries}


def _manifest(draft: Draft, files: Mapping[str, PayloadFile | dict[str, Any]]) -> Manifest:
    kind = MANIFESTS[draft.method.kind]
    fields = {field.name: getattr(draft, field.name) for field in dataclasses.fields(draft) if field.name != "tensors"}
    fields |= {name: tuple(fields[name]) for name in ("statistics", "privacy")}
    # what a kind lacks may be empty in the draft; anything else is for the schema to refuse by name
    stated = {name: value for name, value in fields.items() if name in kind.model_fields or value}
    try:
        manifest = kind.model_validate({**stated, "payload": dict(files), "digest": _UNKNOWN})
    except ValidationError as error:
        raise schema_refusal(error) from error
    return manifest.model_copy(update={"digest": digest_of(manifest)})


def read(
    path: str | os.PathLike[str],
    *,
    max_bytes: int | None = None,
    tensors: Literal["now", "as used", "known"] = "now",
) -> Contribution:
    """Read and check a contribution.

    Args:
        path: its directory.
        max_bytes: refuse a larger one before its payload is read; ``None``: no limit but the format's own.
        tensors: when they are checked; headers and sizes are now. ``"as used"``: each when it is used, the rest when
            `Contribution.settle` is called, which the caller must not forget; payload files as a whole are then not
            hashed, which can only matter where a manifest contradicts itself. ``"known"``: a contribution of this
            digest was checked before; what is used is still hashed.

    Raises:
        MalformedContribution: it does not follow docs/format.md, or cannot be opened.
        AlteredContribution: a digest, a size or a value contradicts what is declared.
        UnsupportedContribution: an unknown version or kind, or larger than ``max_bytes``.
        InvalidOption: ``max_bytes`` is negative.
    """
    if max_bytes is not None and max_bytes < 0:
        raise InvalidOption(f"max_bytes={max_bytes}", why="a size is not negative", mend="Give a size in bytes.")
    with open_directory(path) as directory:
        names = directory.names()
        manifest = parse(directory.read(FILE, MAX_BYTES))
        check_declared(manifest)
        _check_names(directory, names, manifest)
        contribution = Contribution(Path(path), manifest)
        _check_limit(contribution, max_bytes)
        _verify_payload(directory, manifest, in_full=tensors == "now")
    if tensors == "as used":
        contribution.unchecked.update(contribution.tensor_names())
    return contribution


def _check_names(directory: Directory, names: Sequence[str], manifest: Manifest) -> None:
    for name in names:
        signature = name == SIGNATURE and directory.kind(name) == "a regular file"
        if name != FILE and name not in manifest.payload and not signature:
            raise refusal(f"{shown(name)} ({directory.kind(name)})", "the manifest does not declare it")
    for name in manifest.payload:
        if name not in names:
            raise refusal(f"file '{name}'", "the manifest declares it, and the directory does not hold it")


def _check_limit(contribution: Contribution, max_bytes: int | None) -> None:
    if max_bytes is not None and contribution.bytes > max_bytes:
        raise UnsupportedContribution(
            f"contribution '{contribution.path}'",
            why=f"it holds {contribution.bytes} bytes, and the limit given is {max_bytes}",
            mend="Raise the limit if you trust its sender with so much of your disk and time.",
        )


def _verify_payload(directory: Directory, manifest: Manifest, *, in_full: bool) -> None:
    """Every size first, then every byte, or the header's."""
    needs = needs_of(manifest)
    with ExitStack() as stack:
        opened = {name: stack.enter_context(directory.open(name)) for name in sorted(manifest.payload)}
        for name, (_, size) in opened.items():
            if size != manifest.payload[name].bytes:
                declared = manifest.payload[name].bytes
                raise payload.altered(f"file '{name}'", f"it holds {size} bytes, and {declared} are declared")
        for name, (file, size) in opened.items():
            if in_full:
                payload.verify(file, size, name, manifest.payload[name], needs)
            elif file.read(len(expected := header.build(manifest.payload[name].types()))) != expected:
                raise payload.altered(f"file '{name}'", "its header is not that of its declared tensors")
