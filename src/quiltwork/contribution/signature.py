"""A party's signature on its contribution: an OpenSSF Model Signing bundle in the file contribution.sig.

    resources = {name, sha256 of the file}  of every file of the contribution, sorted by name
    subject   = sha256(digest_1 | digest_2 | ...)   over their raw digests
    predicate = {serialization, resources},  of type https://model_signing/signature/v1.0

A checked contribution knows the digest of each of its files, so signing and verifying read no payload, and what is
verified is what was read: replacing files meanwhile gains nothing. The bundle itself is among no digests; a
contribution has one name, signed or not. The `model-signing` package writes and reads the same statements
(https://github.com/sigstore/model-transparency, specification 1.0).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from quiltwork.contribution.bundle import (
    MAX_BYTES,
    STATEMENT_TYPE,
    Envelope,
    Read,
    Statement,
    refusal,
    seal,
    unseal,
    validated,
)
from quiltwork.contribution.canonical import shown
from quiltwork.contribution.directory import open_directory
from quiltwork.contribution.manifest import FILE, SIGNATURE, canonical_bytes
from quiltwork.contribution.sealed import Contribution
from quiltwork.contribution.signing_keys import SigningKey
from quiltwork.errors import UntrustedContribution
from quiltwork.files import require_absent, write_file

PREDICATE = "https://model_signing/signature/v1.0"
_SIGN = "Ask the party to sign it: quiltwork sign DIRECTORY --key KEY."


def file_digests(contribution: Contribution) -> dict[str, str]:
    """SHA-256 of each file of a checked contribution, in hexadecimal digits, sorted by name."""
    manifest = contribution.manifest
    found = {name: declared.digest.removeprefix("sha256:") for name, declared in manifest.payload.items()}
    found[FILE] = hashlib.sha256(canonical_bytes(manifest)).hexdigest()
    return dict(sorted(found.items()))


def statement_of(contribution: Contribution) -> dict[str, Any]:
    """What is signed: the digest of every file."""
    digests = file_digests(contribution)
    return {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": contribution.party, "digest": {"sha256": root_of(digests)}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": [SIGNATURE],
            },
            "resources": [{"name": n, "algorithm": "sha256", "digest": digest} for n, digest in digests.items()],
        },
    }


def root_of(digests: Mapping[str, str]) -> str:
    """The one digest over all files' digests, by which other statements can refer to them.

    >>> root_of({"a": "00", "b": "ff"}) == hashlib.sha256(bytes([0, 255])).hexdigest()
    True
    """
    return hashlib.sha256(b"".join(bytes.fromhex(digests[name]) for name in sorted(digests))).hexdigest()


def sign(contribution: Contribution, key: SigningKey, *, overwrite: bool = False) -> Path:
    """Write the signature of a contribution into its directory.

    Args:
        contribution: as read by ``contribution.store.read``.
        key: the party's.
        overwrite: replace a signature that is there.

    Returns:
        the file written. The contribution's digest does not change.

    Raises:
        StorageError: there is a signature already, or the file system refuses.
    """
    target = contribution.path / SIGNATURE
    require_absent(target, overwrite)
    return write_file(target, seal(statement_of(contribution), key))


def signature_of(contribution: Contribution) -> Envelope:
    """The signature that lies with a contribution, not checked yet.

    Raises:
        UntrustedContribution: there is none.
        MalformedContribution: it is no bundle, or larger than 256 KiB, which is found before it is read.
    """
    what = f"contribution.sig of party '{contribution.party}'"
    with open_directory(contribution.path) as directory:
        if SIGNATURE not in directory.names():
            why = f"'{contribution.path}' holds no {SIGNATURE}: it is not signed"
            raise UntrustedContribution(f"the contribution of party '{contribution.party}'", why=why, mend=_SIGN)
        return unseal(directory.read(SIGNATURE, MAX_BYTES), what)


def require_statement(contribution: Contribution, envelope: Envelope) -> None:
    """Refuse a signature that is over something else; that it is sound was checked before.

    Raises:
        MalformedContribution: the statement is none of model signing, or none that a contribution can be held against.
        UntrustedContribution: it is about other files or other bytes; the first difference is named.
    """
    statement = envelope.statement()
    if statement.predicate_type != PREDICATE:
        raise refusal(
            envelope.where, f"it states {shown(statement.predicate_type)}, and a signature states {PREDICATE}"
        )
    stated = _stated(statement, envelope.where)
    for name, digest in file_digests(contribution).items():
        if stated.pop(name, None) != digest:
            raise _other(contribution, f"it is not over this '{name}'")
    for name in stated:
        raise _other(contribution, f"it is also over {shown(name)}, which is not there")


class _Serialization(Read):
    method: Literal["files"]
    hash_type: Literal["sha256"]


class _Resource(Read):
    name: str
    algorithm: Literal["sha256"]
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Predicate(Read):
    serialization: _Serialization
    resources: Annotated[Sequence[_Resource], Field(max_length=1000)]


def _stated(statement: Statement, where: str) -> dict[str, str]:
    predicate = validated(_Predicate, statement.predicate, where)
    stated = {one.name: one.digest for one in predicate.resources}
    if len(stated) < len(predicate.resources):
        raise refusal(where, "it states a file twice")
    if statement.subject[0].digest.get("sha256") != root_of(stated):
        raise refusal(where, "its subject is not the digest over the files that it states")
    return stated


def _other(contribution: Contribution, why: str) -> UntrustedContribution:
    return UntrustedContribution(
        f"the contribution of party '{contribution.party}'",
        why=f"its signature is sound, but of another contribution: {why}",
        mend="Take the contribution and its signature from the party anew.",
    )
