"""The files of a saved table composite.

    quiltwork.json            what the machines agree on, method and options, who was excluded, digests of the rest
    model.safetensors         the composed mixture
    party-<name>.safetensors  one local fit each, as it was given (`quiltwork.models.mixture.named`)
    README.md                 for people; the one file that may be edited

quiltwork.json is canonical JSON under a digest of its own and holds the digests of the tensor files, so a changed byte
in any of them is refused. It names the method; which class that is, only ``compose.reopen`` knows.

A pooled gate is the machines' own gates with weights: model.safetensors then holds their experts one machine after the
other (``machines.experts`` says how many each has), for readers elsewhere, and the composite is solved again from the
local fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import numpy as np
import safetensors.numpy
from pydantic import Field, JsonValue, StringConstraints, ValidationError, model_validator

from quiltwork.composite.provenance import PROVENANCE, Entry, Provenance
from quiltwork.composite.saved import SavedComposite, broken, options_of, read_saved, sha256
from quiltwork.composite.solution import Solution
from quiltwork.composite.table import TableComposite
from quiltwork.composite.table_card import card
from quiltwork.contribution.canonical import encode
from quiltwork.contribution.directory import Directory, open_directory
from quiltwork.contribution.fields import Digest, PartyName, Short
from quiltwork.contribution.tables import Family, TableReference
from quiltwork.errors import ContributionError, ExportError, QuiltworkError
from quiltwork.models.mixture.design import Array
from quiltwork.models.mixture.experts import Experts
from quiltwork.models.mixture.gates import ConstantWeights, PooledGate
from quiltwork.models.mixture.local import Local, Table
from quiltwork.models.mixture.mixture import Mixture
from quiltwork.models.mixture.named import from_named, mixture_from, named, named_mixture
from quiltwork.privacy.events import Note, Record

MODEL = "model.safetensors"
MOST_TENSOR_BYTES = 2**30


class SavedMachine(Record):
    """A ``Local`` without its arrays; ``file`` is the digest of the file that holds them."""

    party: PartyName
    digest: Annotated[str, StringConstraints(max_length=200)]
    licence: Short
    rows: Annotated[int, Field(ge=1)]
    converged: bool
    file: Digest


class SavedRecord(SavedComposite):
    """quiltwork.json."""

    layout: Literal["table"] = "table"
    table: TableReference
    family: Family
    contributions: Annotated[tuple[SavedMachine, ...], Field(min_length=1, max_length=10_000)]
    gate: Literal["softmax", "pooled"]
    excluded: dict[PartyName, Note]
    objective: tuple[float, ...]
    model: Digest

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        parties = [machine.party for machine in self.contributions]
        if parties != sorted(set(parties)):
            raise ValueError("parties are not sorted, or one is there twice")
        if self.excluded.keys() - set(parties):
            raise ValueError("someone is excluded who is not there")
        if (self.table.classes is not None) != (self.family == "multinomial"):
            raise ValueError("classes belong to multinomial experts and to no others")
        return self


class SavedTable(NamedTuple):
    """What a directory holds, checked in full; only the method is yet to be made from its name and options."""

    method: str
    options: Mapping[str, JsonValue]
    table: Table
    locals: tuple[Local, ...]
    provenance: Provenance
    solution: Solution | None


def contents(composite: TableComposite) -> dict[str, bytes]:
    """The files of a composite by name; the same composite gives the same bytes.

    Raises:
        ExportError: an option of the method, or a name, cannot be written as JSON.
    """
    found = _tensor_files(composite)
    found[PROVENANCE] = encode(_record(composite, found).model_dump(mode="json"))
    found["README.md"] = card(composite).encode()
    return found


def describe(composite: TableComposite) -> dict[str, Any]:
    """What quiltwork.json says of a composite, without writing it.

    Raises:
        ExportError: an option of the method, or a name, cannot be written as JSON.
    """
    return _record(composite, _tensor_files(composite)).model_dump(mode="json")


def read_table(path: str | Path) -> SavedTable:
    """What a saved table composite holds.

    Raises:
        CheckpointError: a file is missing, too large, changed, or not what its neighbours announce.
    """
    path = Path(path)
    try:
        with open_directory(path) as directory:
            record = read_saved(directory, SavedRecord)
            table = Table(**dict(record.table), family=record.family)
            locals_ = tuple(_read_local(directory, machine, table) for machine in record.contributions)
            arrays = _read_arrays(directory, MODEL, record.model)
    except ContributionError as error:
        raise broken(f"'{path}'", f"{error.what}: {error.why}") from error
    solution = _solution(record, arrays, table) if record.gate == "softmax" else None
    entries = tuple(Entry(m.party, m.digest, m.licence) for m in record.contributions)
    provenance = Provenance(None, record.method, entries)
    return SavedTable(record.method, record.options, table, locals_, provenance, solution)


def _tensor_files(composite: TableComposite) -> dict[str, bytes]:
    found = {f"party-{local.party}.safetensors": _tensor_bytes(named(local)) for local in composite.locals}
    return found | {MODEL: _tensor_bytes(_model_arrays(composite.mixture))}


def _record(composite: TableComposite, tensors: Mapping[str, bytes]) -> SavedRecord:
    solution, table = composite.solution, composite.table
    digests = {name: sha256(data) for name, data in tensors.items()}
    try:
        record = SavedRecord(
            method=composite.method.name,
            options=options_of(composite.method),
            table=TableReference(
                features=table.features, units=table.units, target=table.target, classes=table.classes
            ),
            family=table.family,
            contributions=tuple(
                SavedMachine(
                    party=local.party,
                    digest=local.digest,
                    licence=local.licence,
                    rows=local.rows,
                    converged=local.converged,
                    file=digests[f"party-{local.party}.safetensors"],
                )
                for local in composite.locals
            ),
            gate="pooled" if isinstance(solution.mixture.gate, PooledGate) else "softmax",
            excluded=dict(solution.excluded),
            objective=tuple(map(float, solution.objective)),
            notes=solution.notes,
            model=digests[MODEL],
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ExportError(
            f"'{field}' of the composite", why=first["msg"], mend="Change it and compose again."
        ) from error
    return record.sealed()


def _model_arrays(mixture: Mixture[Experts]) -> dict[str, Array]:
    gate = mixture.gate
    if not isinstance(gate, PooledGate):
        return named_mixture(mixture)
    found = {f"mixture.{name}": array for name, array in mixture.experts.parameters().items()}
    found["mixture.gate"] = np.concatenate([own.coefficients for own in gate.gates])
    found["machines.experts"] = np.array([own.n_experts for own in gate.gates], dtype=np.float64)
    if isinstance(gate.weights, ConstantWeights):
        found["machines.weights"] = gate.weights.weights
    return found


def _tensor_bytes(arrays: Mapping[str, Array]) -> bytes:
    plain = {name: np.ascontiguousarray(array, dtype="<f8") for name, array in arrays.items()}
    return safetensors.numpy.save(plain)


def _read_local(directory: Directory, machine: SavedMachine, table: Table) -> Local:
    file = f"party-{machine.party}.safetensors"
    arrays = _read_arrays(directory, file, machine.file)
    try:
        parts = from_named(arrays, table, machine.party)
    except QuiltworkError as error:
        raise broken(f"file '{file}'", f"{error.what}: {error.why}") from error
    return Local(
        machine.party,
        machine.digest,
        machine.licence,
        parts.mixture,
        machine.rows,
        parts.covariates,
        parts.precision,
        machine.converged,
    )


def _solution(record: SavedRecord, arrays: Mapping[str, Array], table: Table) -> Solution:
    try:
        mixture = mixture_from(arrays, table, "the composition")
    except QuiltworkError as error:
        raise broken(f"file '{MODEL}'", f"{error.what}: {error.why}") from error
    return Solution(mixture, record.excluded, record.objective, record.notes)


def _read_arrays(directory: Directory, file: str, digest: str) -> dict[str, Array]:
    data = directory.read(file, MOST_TENSOR_BYTES)
    if sha256(data) != digest:
        raise broken(f"file '{file}'", f"its digest is not the one in {PROVENANCE}: it was changed")
    try:
        arrays = safetensors.numpy.load(data)
    except (safetensors.SafetensorError, ValueError, KeyError) as error:
        raise broken(f"file '{file}'", f"it is no safetensors file ({error})") from error
    if any(array.dtype != np.float64 for array in arrays.values()):
        raise broken(f"file '{file}'", "an array in it is not float64")
    return arrays
