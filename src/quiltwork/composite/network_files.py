"""The files of a saved network composite.

    quiltwork.json                                 task, method and options, what was found, digests of the rest
    contributions/<party>.<kind>.<12 digits>/      each contribution as its party wrote it (docs/format.md)
    README.md                                      for people; the one file that may be edited

quiltwork.json is canonical JSON under a digest of its own and names the contributions by theirs, and each of these
covers every byte of its directory. So a changed byte anywhere is refused, and so is a directory too many or too few. It
names the method; which class that is, only ``compose.reopen`` knows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, JsonValue, model_validator

from quiltwork.composite.network import NetworkComposite
from quiltwork.composite.network_card import card
from quiltwork.composite.network_members import in_order
from quiltwork.composite.provenance import PROVENANCE
from quiltwork.composite.saved import SavedComposite, broken, options_of, read_saved
from quiltwork.contribution.canonical import encode
from quiltwork.contribution.directory import open_directory
from quiltwork.contribution.fields import Digest, PartyName, Short
from quiltwork.contribution.manifest import FILE, canonical_bytes
from quiltwork.contribution.networks import TaskReference
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.store import read
from quiltwork.errors import AlteredContribution, ContributionError
from quiltwork.privacy.events import Record

PLACE = "contributions"
_BLOCK = 2**20


class SavedContribution(Record):
    """One contribution that is in the composite."""

    party: PartyName
    kind: Short
    digest: Digest
    licence: Short

    @property
    def directory(self) -> str:
        """Where it lies, below ``contributions``."""
        return f"{self.party}.{self.kind}.{self.digest[7:19]}"


class SavedNetworks(SavedComposite):
    """quiltwork.json."""

    layout: Literal["network"] = "network"
    task: TaskReference
    contributions: Annotated[tuple[SavedContribution, ...], Field(min_length=1, max_length=10_000)]
    figures: dict[str, JsonValue]

    @model_validator(mode="after")
    def _is_in_order(self) -> Self:
        keys = [(c.party, c.kind, c.digest) for c in self.contributions]
        if keys != sorted(set(keys)):
            raise ValueError("contributions are not sorted, or one is there twice")
        return self


class SavedNetwork(NamedTuple):
    """What a directory holds, checked in full; only the method is yet to be made from its name and options."""

    method: str
    options: Mapping[str, JsonValue]
    task: TaskReference
    contributions: tuple[Contribution, ...]


def write(composite: NetworkComposite, place: Path) -> None:
    """Write the files of a composite into an empty directory; the same composite gives the same bytes.

    Raises:
        ExportError: an option of the method cannot be written as JSON.
        AlteredContribution: a contribution changed on disk since it was read.
    """
    record = _record(composite)
    (place / PLACE).mkdir()
    for contribution, saved in zip(composite.contributions, record.contributions, strict=True):
        _copy(contribution, place / PLACE / saved.directory)
    (place / PROVENANCE).write_bytes(encode(record.model_dump(mode="json")))
    (place / "README.md").write_bytes(card(composite).encode())


def describe(composite: NetworkComposite) -> dict[str, Any]:
    """What quiltwork.json says of a composite, without writing it.

    Raises:
        ExportError: an option of the method cannot be written as JSON.
    """
    return _record(composite).model_dump(mode="json")


def read_network(path: str | Path) -> SavedNetwork:
    """What a saved network composite holds.

    Raises:
        CheckpointError: a file is missing, too large, changed, or not what its neighbours announce.
    """
    path = Path(path)
    try:
        with open_directory(path) as directory:
            record = read_saved(directory, SavedNetworks)
        _require_exactly(path / PLACE, [saved.directory for saved in record.contributions])
        contributions = tuple(_read_contribution(path / PLACE, saved) for saved in record.contributions)
    except ContributionError as error:
        raise broken(f"'{path}'", f"{error.what}: {error.why}") from error
    return SavedNetwork(record.method, record.options, record.task, in_order(contributions))


def _record(composite: NetworkComposite) -> SavedNetworks:
    solution = composite.solution
    contributions = tuple(
        SavedContribution(party=c.party, kind=c.kind, digest=c.digest, licence=c.manifest.licence)
        for c in composite.contributions
    )
    return SavedNetworks(
        method=composite.method.name,
        options=options_of(composite.method),
        task=composite.task,
        contributions=contributions,
        figures=dict(solution.figures),
        notes=solution.notes,
    ).sealed()


def _copy(contribution: Contribution, place: Path) -> None:
    """A contribution's own files, each held against its digest on the way."""
    place.mkdir()
    (place / FILE).write_bytes(canonical_bytes(contribution.manifest))
    with open_directory(contribution.path) as directory:
        for name, declared in contribution.manifest.payload.items():
            seen = hashlib.sha256()
            with directory.open(name) as (source, _), (place / name).open("wb") as target:
                while block := source.read(_BLOCK):
                    seen.update(block)
                    target.write(block)
            if "sha256:" + seen.hexdigest() != declared.digest:
                raise AlteredContribution(
                    f"file '{name}' of party '{contribution.party}'",
                    why="it was changed since the contribution was read",
                    mend="Read the contributions again and compose anew.",
                )


def _require_exactly(place: Path, names: Sequence[str]) -> None:
    try:
        found = sorted(entry.name for entry in place.iterdir())
    except OSError as error:
        raise broken(f"'{place}'", f"it cannot be listed ({error.strerror})") from error
    for name in sorted(set(found) ^ set(names)):
        why = f"{PROVENANCE} does not name it" if name in found else f"{PROVENANCE} names it, and it is not there"
        raise broken(f"contribution {name[:200]!a}", why)


def _read_contribution(place: Path, saved: SavedContribution) -> Contribution:
    contribution = read(place / saved.directory)
    found = SavedContribution(
        party=contribution.party,
        kind=contribution.kind,
        digest=contribution.digest,
        licence=contribution.manifest.licence,
    )
    if found != saved:
        raise broken(f"contribution '{saved.directory}'", f"it is not the one that {PROVENANCE} names")
    return contribution
