"""What an owner hands the composer before a session over Flower: a small file, carried on another way.

    party, plan      whose it is, and the SHA-256 of the plan's bytes that its process was started by
    down, up         the two keys of the pair, drawn for this session; whoever has them can speak as either end
    sealing          how the party's process is confined, by its own word
    columns, cases   names of the columns, and the number of rows
    ids              BLAKE2b of the row ids in the agreed order, under the key ``up``; null where the plan has no ids

The digest lets the composer see that its labels are of the same cases without being told one that it does not know;
as it has the key, it can try sets of ids, which only pays where it knows nearly all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quiltwork.errors import InvalidOption
from quiltwork.files import write_file
from quiltwork.session.channel import PairKeys

_HEX = r"^[0-9a-f]{64}$"
Digest = Annotated[str, Field(pattern=_HEX)]


class Invitation(BaseModel):
    """The file's content, as the module's docstring says."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    party: str
    plan: Digest
    down: Annotated[Digest, Field(repr=False)]
    up: Annotated[Digest, Field(repr=False)]
    sealing: Literal["not sealed", "audit-hook", "landlock"]
    columns: list[str]
    cases: Annotated[int, Field(ge=0)]
    ids: Digest | None

    @property
    def keys(self) -> PairKeys:
        """The keys of the pair."""
        return PairKeys(bytes.fromhex(self.down), bytes.fromhex(self.up))

    def write(self, path: Path) -> None:
        """Write the file, readable by its writer alone.

        Raises:
            StorageError: the file system refuses.
        """
        write_file(path, self.model_dump_json(indent=1) + "\n", private=True)


def ids_digest(ids: Sequence[str], keys: PairKeys) -> str:
    """Digest of ids in order; each with its length, so that no other ids run together into the same.

    >>> keys = PairKeys(bytes(32), bytes(32))
    >>> ids_digest(["ab", "c"], keys) == ids_digest(["a", "bc"], keys)
    False
    """
    found = hashlib.blake2b(key=keys.up, digest_size=32, person=b"row ids")
    for name in ids:
        data = name.encode()
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()


def read_invitation(folder: Path, party: str, plan: str) -> Invitation:
    """A party's invitation.

    Args:
        folder: where the composer keeps what owners handed over, as ``<party>.json``.
        party: whose.
        plan: SHA-256 of the composer's plan.

    Raises:
        InvalidOption: it is not there, damaged, of another party, or of another plan.
    """
    path = folder / f"{party}.json"
    try:
        found = Invitation.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        why = "it is not there" if isinstance(error, OSError) else "it is not one that `quiltwork split host` wrote"
        raise _unfit(path, why) from None
    if found.party != party:
        raise _unfit(path, f"it is of party '{found.party}'")
    if found.plan != plan:
        raise _unfit(path, "that party's process was started by another plan")
    return found


def _unfit(path: Path, why: str) -> InvalidOption:
    return InvalidOption(
        f"invitation '{path}'",
        why=why,
        mend="Give all the same plan, byte for byte, and ask the owner for the file that its `split host` wrote.",
    )
