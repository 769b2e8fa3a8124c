"""A party takes a contribution back: a signed, dated statement over its digest.

    subject   = {name: party, digest: {sha256: the contribution's digest}}
    predicate = {party, contribution, revoked, reason},  of type https://quiltwork/revocation/v1

in the same bundle as a signature. A revocation is a file of its own that anybody may pass on; whether it is the
party's is told by a key of the party, so it is nothing without a trust file. It recalls no copy: it is a word that
those who compose and those who use a composite can ask for and heed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StringConstraints, ValidationError, field_validator

from quiltwork.contribution.bundle import (
    MAX_BYTES,
    STATEMENT_TYPE,
    Envelope,
    Read,
    refusal,
    seal,
    unseal,
    validated,
)
from quiltwork.contribution.canonical import shown
from quiltwork.contribution.directory import open_directory
from quiltwork.contribution.fields import Digest, PartyLabel
from quiltwork.contribution.signing_keys import SigningKey
from quiltwork.errors import InvalidOption
from quiltwork.privacy.events import Note

PREDICATE = "https://quiltwork/revocation/v1"
SUFFIX = ".revocation"
_MOST_FILES = 10_000


class Revocation(Read):
    """What a revocation states.

    Attributes:
        party: whose contribution it is, an owner or one of its shares.
        contribution: its digest.
        revoked: when, in UTC to the second, by the party's own clock.
        reason: for people.
    """

    party: PartyLabel
    contribution: Digest
    revoked: Annotated[str, StringConstraints(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")]
    reason: Annotated[Note, Field(min_length=1)]

    @property
    def told(self) -> str:
        """When and why, after the name of who took it back."""
        return f"took it back on {self.revoked}, saying: {' '.join(self.reason.split())}"

    @field_validator("revoked")
    @classmethod
    def _is_a_moment(cls, text: str) -> str:
        datetime.fromisoformat(text)
        return text


@dataclass(frozen=True)
class SignedRevocation:
    """A revocation with its envelope; whose it is, is for a trust file to tell."""

    revocation: Revocation
    envelope: Envelope


def revoke(party: str, contribution: str, key: SigningKey, *, reason: str, at: datetime) -> bytes:
    """The bundle that takes a contribution back.

    Args:
        party: its owner.
        contribution: its digest.
        key: a key of the party's.
        reason: one printable line or several, at most 2000 characters.
        at: when, with a time zone.

    Raises:
        InvalidOption: a name, a digest or the reason is none; the reason may be empty, too long or not printable.
    """
    moment = at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    stated = {"party": party, "contribution": contribution, "revoked": moment, "reason": reason}
    try:
        Revocation.model_validate(stated)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        mend = "Give the party's name, the digest that inspect shows, and a reason of 1 to 2000 printable characters."
        raise InvalidOption(f"'{first['loc'][0]}' of a revocation", why=first["msg"][:300], mend=mend) from error
    subject = {"name": party, "digest": {"sha256": contribution.removeprefix("sha256:")}}
    statement: dict[str, Any] = {"_type": STATEMENT_TYPE, "subject": [subject], "predicateType": PREDICATE}
    return seal(statement | {"predicate": stated}, key)


def read_revocations(paths: Iterable[str | Path]) -> list[SignedRevocation]:
    """The revocations of some files, and of all files ``*.revocation`` of some directories.

    Raises:
        InvalidOption: a path is neither, or a directory holds more than 10 000.
        MalformedContribution: a file is no revocation; it is named, since a revocation that cannot be read may be one
            that should be heeded.
    """
    return [_read(file) for path in paths for file in _files(Path(path))]


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        if not path.is_file():
            why = "it is neither a file nor a directory"
            raise InvalidOption(f"revocations '{path}'", why=why, mend="Name files, or a directory of them.")
        yield path
        return
    found = sorted(path.glob(f"*{SUFFIX}"))
    if len(found) > _MOST_FILES:
        why = f"it holds {len(found)} files, and at most {_MOST_FILES} are read"
        raise InvalidOption(f"revocations '{path}'", why=why, mend="Name those that concern you.")
    yield from found


def _read(path: Path) -> SignedRevocation:
    where = f"revocation {shown(str(path), 300)}"
    with open_directory(path.parent) as directory:
        envelope = unseal(directory.read(path.name, MAX_BYTES), where)
    statement = envelope.statement()
    if statement.predicate_type != PREDICATE:
        raise refusal(where, f"it states {shown(statement.predicate_type)}, and a revocation states {PREDICATE}")
    revocation = validated(Revocation, statement.predicate, where)
    if statement.subject[0].digest != {"sha256": revocation.contribution.removeprefix("sha256:")}:
        raise refusal(where, "its subject is another contribution than it names")
    return SignedRevocation(revocation, envelope)
