"""A merged checkpoint's directory, held against the merge.json that `quiltwork.compose.checkpoints` wrote with it.

merge.json lists the models by name, digest and weight, and every other file with size and SHA-256, under a digest over
all its fields. That finds whatever was changed since, by accident or by someone who did not mend the record too: like a
composed directory, a merged one is not signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, ValidationError

from quiltwork.composite.listed import Listed, listed_files, require_own_digest
from quiltwork.errors import CheckpointError
from quiltwork.models.json_files import read_json
from quiltwork.privacy.events import Record

RECORD = "merge.json"
MOST_BYTES = 2**24

_Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class MergedModel(Record):
    """A model that went into a merge: its name, its digest, its weight."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    digest: _Digest
    weight: float


class MergeRecord(Record):
    """What merge.json says besides the files."""

    format: Literal["quiltwork-merge"] = "quiltwork-merge"
    version: Literal[1] = 1
    method: Literal["linear", "task_arithmetic"]
    scale: float
    base: _Digest | None
    models: Annotated[list[MergedModel], Field(min_length=1)]


@dataclass(frozen=True)
class Merged:
    """A merged checkpoint.

    Attributes:
        record: of what, and how.
        listed: its directory and its files.
    """

    record: MergeRecord
    listed: Listed


def read_merged(path: Path) -> Merged:
    """Read merge.json and check what is small; `Listed.verify` hashes everything.

    Raises:
        CheckpointError: there is none, or it is not the record of a merge.
        AlteredCheckpoint: the directory is not as it was written; the file is named.
    """
    where = path / RECORD
    if where.is_file() and where.stat().st_size > MOST_BYTES:
        raise _refused(where, f"it holds more than {MOST_BYTES} bytes")
    value = read_json(where)
    try:
        stated = {name: item for name, item in value.items() if name not in ("files", "digest")}
        record = MergeRecord.model_validate(stated)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise _refused(where, f"field {field[:200]!a}: {first['msg'][:300]!a}") from error
    require_own_digest(value, where)
    listed = Listed(path, RECORD, listed_files(value, where))
    listed.check()
    return Merged(record, listed)


def _refused(where: Path, why: str) -> CheckpointError:
    return CheckpointError(f"'{where}'", why=f"it is no record of a merge ({why})", mend="Merge the models again.")
