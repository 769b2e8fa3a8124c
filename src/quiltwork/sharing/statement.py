"""What a dealer writes down of a custody: one public statement, and a share a custodian; JSON under a schema.

    statement    who holds shares of what, how many are needed, and the SHA-256 of the sealed file and of each share
    share        32 bytes of the key's share, and the SHA-256 of the statement that it belongs to

So a statement commits to every share and every share to its statement: whoever changes one is found out by the others,
and named. The digest of a share betrays nothing that could be searched for, since a share is 32 uniform bytes.

Each value has one spelling (keys sorted, indent 2, ASCII, a newline at the end), and bytes that are spelt otherwise are
refused, so a file says one thing to every reader. Reading is bounded, and runs nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from quiltwork.errors import ForgedShare
from quiltwork.sharing.shamir import MOST_HOLDERS

MOST_BYTES = 2**16
"""No statement and no share is larger as JSON."""

NAME = r"^[a-z0-9][a-z0-9_-]{0,63}$"
"""How a custodian may be called: as a party is."""

Custodian = Annotated[str, StringConstraints(pattern=NAME)]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
Identity = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]
Epoch = Annotated[int, Field(ge=1, lt=2**31)]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Statement(_Record):
    """What everybody may know of a custody.

    Attributes:
        custody: its identity, 16 random bytes in hexadecimal digits; it stays when shares are refreshed.
        epoch: how often its shares were dealt.
        threshold: how many shares give the key back.
        custodians: who holds them; the x-th in this order holds the share of the point x, counted from 1.
        shares: the SHA-256 of each share's key bytes, in the custodians' order.
        sealed: the SHA-256 of the sealed file.
        bytes: the size of the sealed file.
        cipher: how it was sealed.
    """

    format: Literal["quiltwork-custody"] = "quiltwork-custody"
    version: Literal[1] = 1
    custody: Identity
    epoch: Epoch
    threshold: int
    custodians: Annotated[tuple[Custodian, ...], Field(max_length=MOST_HOLDERS)]
    shares: Annotated[tuple[Digest, ...], Field(max_length=MOST_HOLDERS)]
    sealed: Digest
    bytes: Annotated[int, Field(ge=16)]
    cipher: Literal["chacha20-poly1305"] = "chacha20-poly1305"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.custodians)) != len(self.custodians) or len(self.shares) != len(self.custodians):
            raise ValueError("custodians are told apart by name, and each has one share")
        if not 2 <= self.threshold <= len(self.custodians):
            raise ValueError("a threshold lies between 2 and the number of custodians")
        return self


class Share(_Record):
    """What one custodian keeps to itself.

    Attributes:
        custody: to which custody it belongs.
        epoch: to which dealing of it.
        custodian: who holds it.
        statement: the SHA-256 of the statement that its dealer wrote.
        key: its 32 secret bytes, in hexadecimal digits; they are not printed.
    """

    format: Literal["quiltwork-share"] = "quiltwork-share"
    version: Literal[1] = 1
    custody: Identity
    epoch: Epoch
    custodian: Custodian
    statement: Digest
    key: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), Field(repr=False)]


_Any = TypeVar("_Any", Statement, Share)


def encode(record: Statement | Share) -> bytes:
    """The one spelling of a statement or a share."""
    return (json.dumps(record.model_dump(mode="json"), sort_keys=True, indent=2) + "\n").encode()


def decode(kind: type[_Any], data: bytes, where: str) -> _Any:
    """Read what `encode` wrote.

    Raises:
        ForgedShare: the bytes are not such a record, or not in its one spelling; ``where`` is named.
    """
    try:
        record = kind.model_validate_json(data)
    except ValidationError as error:
        # the input is left out: it may hold secret bytes, or drive a terminal
        first = error.errors(include_input=False, include_context=False, include_url=False)[0]
        field = ".".join(str(part)[:32] for part in first["loc"])
        raise _unlike(where, f"it is no {kind.__name__.lower()} ({field!a}: {first['type']})") from error
    if encode(record) != data:
        raise _unlike(where, "its spelling is not the one that was written; it was edited")
    return record


def digest(data: bytes) -> str:
    """SHA-256 as the records write it."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def read(path: Path, most: int) -> bytes:
    """The whole of a regular file of at most ``most`` bytes.

    Raises:
        ForgedShare: it is missing, cannot be read, is no regular file, or is larger.
    """
    try:
        # a pipe would wait for its writer
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or status.st_size > most:
                raise _unlike(f"'{path}'", f"it is no regular file of at most {most} bytes")
            return file.read(most)
    except OSError as error:
        raise _unlike(f"'{path}'", f"it cannot be read ({(error.strerror or str(error)).lower()})") from error


def _unlike(where: str, why: str) -> ForgedShare:
    return ForgedShare(where, why=why, mend="Give the file as its dealer wrote it.")
