"""quiltwork.json of a saved composite: canonical JSON under a digest of its own, whatever the layout.

A record's digest is over all its other fields, and its bytes are the one spelling of them, so a changed byte is refused
wherever it lies. A layout adds fields; which class its method is, only ``compose.reopen`` knows.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

from pydantic import JsonValue, StringConstraints, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from quiltwork.composite.provenance import PROVENANCE
from quiltwork.contribution.canonical import decode, encode
from quiltwork.contribution.directory import Directory
from quiltwork.contribution.fields import Short
from quiltwork.errors import CheckpointError, ExportError
from quiltwork.privacy.events import Note, Record

MOST_JSON_BYTES = 2**24


class SavedComposite(Record):
    """What quiltwork.json of every composite without a base says."""

    format: Literal["quiltwork-composite"] = "quiltwork-composite"
    version: Literal[1] = 1
    base: None = None
    method: Short
    options: dict[str, JsonValue]
    notes: tuple[Note, ...]
    digest: Annotated[str, StringConstraints(pattern="^(sha256:[0-9a-f]{64})?$")] = ""

    def sealed(self) -> Self:
        """The same with its digest over all other fields."""
        return self.model_copy(update={"digest": sha256(encode(self.model_dump(mode="json", exclude={"digest"})))})


class Named(Protocol):
    """A method's dataclass."""

    @property
    def name(self) -> str:
        """What scores and reports call it."""
        ...


S = TypeVar("S", bound=SavedComposite)


def read_saved(directory: Directory, layout: type[S]) -> S:
    """The record of a directory.

    Raises:
        CheckpointError: it is not of the layout, not canonical, or one of its fields was changed.
    """
    data = directory.read(PROVENANCE, MOST_JSON_BYTES)
    decode(data, PROVENANCE, most_values=2**20)
    try:
        record = layout.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise broken(f"field {field[:200]!a} in {PROVENANCE}", ascii(first["msg"][:300])) from error
    if encode(record.model_dump(mode="json")) != data:
        raise broken(PROVENANCE, "its bytes are not the canonical spelling of its fields")
    if record.sealed().digest != record.digest:
        raise broken(f"'digest' in {PROVENANCE}", "it is not the digest of the other fields: one of them was changed")
    return record


def options_of(method: Named) -> dict[str, Any]:
    """The fields of a method's dataclass as JSON.

    Raises:
        ExportError: one cannot be written so.
    """
    try:
        options = TypeAdapter(type(method)).dump_python(method, mode="json", warnings="error")
        encode(options)
    except (PydanticUserError, TypeError, ValueError) as error:
        raise ExportError(
            f"method '{method.name}'",
            why=f"its options cannot be written as JSON ({error})",
            mend="Use a method whose fields are numbers, text, or tuples and mappings of these.",
        ) from error
    return dict(options)


def sha256(data: bytes) -> str:
    """A digest as records spell it."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def broken(what: str, why: str) -> CheckpointError:
    """The refusal of a directory that is not as it was saved."""
    return CheckpointError(what, why=why, mend="Compose the model again; the directory may be incomplete or edited.")
